// SPDX-License-Identifier: GPL-2.0
/*
 * BAR2 as memory: struct pages, so that mappings are write-back cached,
 * futexes work in them and system calls can read and write them.
 *
 * The pages belong to one pseudo-inode per device, whatever device node was
 * opened: futex keys are (inode, page index), and two inodes would split
 * them. Faults insert device page table entries (as device_dax does), which
 * hold no page references; user space gets those only by get_user_pages.
 */
#include <linux/delay.h>
#include <linux/mm.h>
#include <linux/mount.h>
#include <linux/pagemap.h>
#include <linux/pfn_t.h>
#include <linux/pseudo_fs.h>

#include "vshmem.h"

#define VSHMEM_FS_MAGIC		0x7673686d

static struct vfsmount *vshmem_mnt;

static int vshmem_init_fs_context(struct fs_context *fc)
{
	return init_pseudo(fc, VSHMEM_FS_MAGIC) ? 0 : -ENOMEM;
}

/* No owner: our own mount must not keep the module from being removed. */
static struct file_system_type vshmem_fs_type = {
	.name		 = "vshmem",
	.init_fs_context = vshmem_init_fs_context,
	.kill_sb	 = kill_anon_super,
};

/* Nothing to write back; without it set_page_dirty() would call a null. */
static const struct address_space_operations vshmem_aops = {
	.dirty_folio	= noop_dirty_folio,
};

int vshmem_map_init(void)
{
	vshmem_mnt = kern_mount(&vshmem_fs_type);
	return PTR_ERR_OR_ZERO(vshmem_mnt);
}

void vshmem_map_exit(void)
{
	kern_unmount(vshmem_mnt);
}

static struct inode *vshmem_new_inode(void)
{
	struct inode *inode = alloc_anon_inode(vshmem_mnt->mnt_sb);

	if (IS_ERR(inode))
		return inode;
	inode->i_mapping->a_ops = &vshmem_aops;
	/*
	 * What device_dax says of its inodes: the memory management then
	 * allows huge faults and keeps its hands off the pages otherwise.
	 */
	inode->i_mode = S_IFCHR | 0600;
	inode->i_flags |= S_DAX;
	return inode;
}

/* Sets @mem, @mem_phys, @mem_size and @inode; vshmem_put() drops the inode. */
int vshmem_map_bar2(struct vshmem_dev *dev)
{
	struct device *parent = &dev->pdev->dev;
	unsigned long pfn, n, i;
	void *mem;

	dev->mem_phys = pci_resource_start(dev->pdev, 2);
	dev->mem_size = pci_resource_len(dev->pdev, 2);
	if (!dev->mem_size || (dev->mem_phys | dev->mem_size) & ~PMD_MASK) {
		dev_err(parent,
			"BAR2 is %llu bytes at %pa: the region must be a multiple of 2 MiB; give the server a bigger one\n",
			dev->mem_size, &dev->mem_phys);
		return -EINVAL;
	}
	if (!devm_request_mem_region(parent, dev->mem_phys, dev->mem_size,
				     "uio_vshmem")) {
		dev_err(parent, "BAR2 at %pa is in use by another driver\n",
			&dev->mem_phys);
		return -EBUSY;
	}

	dev->inode = vshmem_new_inode();
	if (IS_ERR(dev->inode)) {
		int ret = PTR_ERR(dev->inode);

		dev->inode = NULL;
		return ret;
	}

	dev->pgmap.type = MEMORY_DEVICE_GENERIC;
	dev->pgmap.range.start = dev->mem_phys;
	dev->pgmap.range.end = dev->mem_phys + dev->mem_size - 1;
	dev->pgmap.nr_range = 1;
	mem = devm_memremap_pages(parent, &dev->pgmap);
	if (IS_ERR(mem)) {
		dev_err(parent,
			"no struct pages for BAR2 at %pa (%ld): memory short (1.6 %% of its size is needed), BAR2 mapped through sysfs, or beyond the direct map (try nokaslr)\n",
			&dev->mem_phys, PTR_ERR(mem));
		return PTR_ERR(mem);
	}

	/* Set once for all: the mapping of page and index never changes. */
	pfn = PHYS_PFN(dev->mem_phys);
	n = dev->mem_size >> PAGE_SHIFT;
	for (i = 0; i < n; i++) {
		struct page *page = pfn_to_page(pfn + i);

		page->mapping = dev->inode->i_mapping;
		page->index = i;
		if (!(i % 65536))
			cond_resched();
	}
	dev->idle_refs = page_count(pfn_to_page(pfn));
	dev->mem = mem;
	return 0;
}

static bool vshmem_vma_dev(struct vm_fault *vmf, struct vshmem_dev **dev)
{
	struct vshmem_file *vf = vmf->vma->vm_file->private_data;

	*dev = vf->dev;
	return (vmf->vma->vm_flags & VM_MAYSHARE) != 0;
}

static vm_fault_t vshmem_fault(struct vm_fault *vmf)
{
	u64 off = (u64)vmf->pgoff << PAGE_SHIFT;
	struct vshmem_dev *dev;
	vm_fault_t ret;
	int idx;

	if (!vshmem_vma_dev(vmf, &dev) || !vshmem_range_ok(dev, off, PAGE_SIZE))
		return VM_FAULT_SIGBUS;
	/* remove() zaps after the last fault that got in here. */
	if (!vshmem_enter(dev, &idx))
		return VM_FAULT_SIGBUS;
	ret = vmf_insert_mixed(vmf->vma, vmf->address,
			       phys_to_pfn_t(dev->mem_phys + off,
					     PFN_DEV | PFN_MAP));
	vshmem_exit(idx);
	return ret;
}

#ifdef CONFIG_TRANSPARENT_HUGEPAGE
/* Maps 2 MiB at once where address, offset and mapping allow it. */
static vm_fault_t vshmem_huge_fault(struct vm_fault *vmf, VSHMEM_HUGE_ARG)
{
	struct vm_area_struct *vma = vmf->vma;
	unsigned long addr = vmf->address & PMD_MASK;
	struct vshmem_dev *dev;
	vm_fault_t ret;
	u64 off;
	int idx;

	if (!vshmem_huge_is_pmd() || !vshmem_vma_dev(vmf, &dev))
		return VM_FAULT_FALLBACK;
	if (addr < vma->vm_start || vma->vm_end - addr < PMD_SIZE)
		return VM_FAULT_FALLBACK;
	off = (u64)linear_page_index(vma, addr) << PAGE_SHIFT;
	if (off & ~PMD_MASK || !vshmem_range_ok(dev, off, PMD_SIZE))
		return VM_FAULT_FALLBACK;
	if (!vshmem_enter(dev, &idx))
		return VM_FAULT_SIGBUS;
	ret = vmf_insert_pfn_pmd(vmf, phys_to_pfn_t(dev->mem_phys + off,
						    PFN_DEV | PFN_MAP),
				 vmf->flags & FAULT_FLAG_WRITE);
	vshmem_exit(idx);
	return ret;
}
#endif

static const struct vm_operations_struct vshmem_vm_ops = {
	.fault		= vshmem_fault,
#ifdef CONFIG_TRANSPARENT_HUGEPAGE
	.huge_fault	= vshmem_huge_fault,
#endif
};

/* The offset is one of BAR2, in bytes; nothing is mapped before its fault. */
int vshmem_mmap(struct file *file, struct vm_area_struct *vma)
{
	struct vshmem_file *vf = file->private_data;
	u64 off = (u64)vma->vm_pgoff << PAGE_SHIFT;

	if (READ_ONCE(vf->dev->dead))
		return -ENODEV;
	/*
	 * VM_MAYSHARE, not VM_SHARED: the latter is already gone from a
	 * shared mapping of a read-only descriptor.
	 */
	if (!(vma->vm_flags & VM_MAYSHARE))
		return -EINVAL;
	if (!vshmem_range_ok(vf->dev, off, vma->vm_end - vma->vm_start))
		return -EINVAL;
	/* mprotect() cannot give what the descriptor did not. */
	if (!(file->f_mode & FMODE_WRITE))
		vm_flags_clear(vma, VM_MAYWRITE);
	/* mremap() cannot grow past the range checked here. */
	vm_flags_set(vma, VM_DONTEXPAND);
	vma->vm_ops = &vshmem_vm_ops;
	return 0;
}

/* Device dead: no page table entry of BAR2 is left, and none will come. */
void vshmem_zap(struct vshmem_dev *dev)
{
	unmap_mapping_range(dev->inode->i_mapping, 0, 0, 1);
}

/*
 * Direct I/O, pipes (vmsplice) and io_uring may hold pages that are mapped
 * nowhere any more. The struct pages must not go before they let go; there is
 * no way to take them back, so removal waits, and says for what.
 */
void vshmem_wait_unpinned(struct vshmem_dev *dev)
{
	unsigned long pfn = PHYS_PFN(dev->mem_phys);
	unsigned long n = dev->mem_size >> PAGE_SHIFT;
	unsigned long i, rounds = 0;

	for (i = 0; i < n; i++) {
		if (!(i % 65536))
			cond_resched();
		while (page_count(pfn_to_page(pfn + i)) > dev->idle_refs) {
			if (rounds++ % 1000 == 100)
				dev_warn(&dev->pdev->dev,
					 "removal waits for page %lu of BAR2: some process still has it in a pipe or in direct I/O\n",
					 i);
			msleep(10);
		}
	}
}
