// SPDX-License-Identifier: GPL-2.0
/*
 * uio_vshmem: the driver of ivshmem-doorbell devices (1af4:1110).
 *
 * Vector v is /dev/uioX named vshmem-wake (0), vshmem-control (1) or
 * vshmem-vec<v>. Each counts its own interrupts. The vector that BIND names
 * also drains the wake bitmap.
 *
 * Order of birth: UIO devices, then interrupts, then /dev/vshmemN; so an
 * interrupt always has its counter, and a program always has interrupts.
 * Order of death: see vshmem_remove().
 */
#include <linux/idr.h>
#include <linux/interrupt.h>
#include <linux/module.h>
#include <linux/panic_notifier.h>
#include <linux/reboot.h>
#include <linux/slab.h>

#include "vshmem.h"

#define VSHMEM_BAR0_SIZE	256

DEFINE_SRCU(vshmem_srcu);
static DEFINE_IDA(vshmem_ida);

static irqreturn_t vshmem_irq(int irq, void *arg)
{
	struct vshmem_vector *v = arg;

	vshmem_drain_irq(v->dev, v->nr);
	uio_event_notify(&v->uio);
	return IRQ_HANDLED;
}

/* A write to /dev/uioX wakes its local readers, without leaving the guest. */
static int vshmem_irqcontrol(struct uio_info *info, s32 on)
{
	uio_event_notify(info);
	return 0;
}

static void vshmem_unregister_uio(struct vshmem_dev *dev, unsigned int n)
{
	while (n--)
		uio_unregister_device(&dev->vector[n].uio);
}

static int vshmem_register_uio(struct vshmem_dev *dev)
{
	phys_addr_t bar0 = pci_resource_start(dev->pdev, 0);
	unsigned int i;
	int ret;

	for (i = 0; i < dev->vectors; i++) {
		struct vshmem_vector *v = &dev->vector[i];

		v->dev = dev;
		v->nr = i;
		if (i == 0)
			strscpy(v->uio_name, "vshmem-wake", sizeof(v->uio_name));
		else if (i == 1)
			strscpy(v->uio_name, "vshmem-control",
				sizeof(v->uio_name));
		else
			snprintf(v->uio_name, sizeof(v->uio_name),
				 "vshmem-vec%u", i);
		v->uio.name = v->uio_name;
		v->uio.version = "1";
		v->uio.irq = UIO_IRQ_CUSTOM;
		v->uio.irqcontrol = vshmem_irqcontrol;
		/* UIO refuses to map less than a page; the BAR is 256 bytes. */
		v->uio.mem[0].name = "BAR0";
		v->uio.mem[0].memtype = UIO_MEM_PHYS;
		v->uio.mem[0].addr = bar0 & PAGE_MASK;
		v->uio.mem[0].offs = offset_in_page(bar0);
		v->uio.mem[0].size = PAGE_ALIGN(offset_in_page(bar0) +
						VSHMEM_BAR0_SIZE);
		ret = uio_register_device(&dev->pdev->dev, &v->uio);
		if (ret) {
			vshmem_unregister_uio(dev, i);
			return ret;
		}
	}
	return 0;
}

static void vshmem_free_irqs(struct vshmem_dev *dev, unsigned int n)
{
	while (n--)
		free_irq(pci_irq_vector(dev->pdev, n), &dev->vector[n]);
}

static int vshmem_request_irqs(struct vshmem_dev *dev)
{
	unsigned int i;
	int ret;

	for (i = 0; i < dev->vectors; i++) {
		struct vshmem_vector *v = &dev->vector[i];

		snprintf(v->irq_name, sizeof(v->irq_name), "%s-%u", dev->name, i);
		ret = request_irq(pci_irq_vector(dev->pdev, i), vshmem_irq, 0,
				  v->irq_name, v);
		if (ret) {
			vshmem_free_irqs(dev, i);
			return ret;
		}
	}
	return 0;
}

/*
 * No process reads or writes the region any more, but for direct I/O that is
 * under way. May sleep.
 */
static void vshmem_cut_off(struct vshmem_dev *dev)
{
	/* Ioctls and faults: those inside finish, later ones are refused. */
	WRITE_ONCE(dev->dead, true);
	synchronize_srcu(&vshmem_srcu);
	/* In this order: who returns from WAIT with ENODEV has no mapping. */
	vshmem_zap(dev);
	vshmem_wake_all(dev);
}

/* The other processors have been stopped. */
static int vshmem_panic(struct notifier_block *nb, unsigned long event,
			void *arg)
{
	vshmem_announce_death(container_of(nb, struct vshmem_dev, panic_nb));
	return NOTIFY_DONE;
}

/*
 * Reboot, power off, kexec. Processes still run, here and on other processors,
 * for as long as the devices take to shut down; what they did to the region
 * after its peers have settled their deaths would be nobody's to undo.
 */
static int vshmem_reboot(struct notifier_block *nb, unsigned long event,
			 void *arg)
{
	struct vshmem_dev *dev = container_of(nb, struct vshmem_dev, reboot_nb);

	vshmem_cut_off(dev);
	vshmem_announce_death(dev);
	/* Once: the slot may soon be another's. */
	vshmem_unbind(dev);
	return NOTIFY_DONE;
}

/* Registers, and what they say of the device. */
static int vshmem_map_bar0(struct vshmem_dev *dev)
{
	struct device *parent = &dev->pdev->dev;
	phys_addr_t bar0 = pci_resource_start(dev->pdev, 0);

	if (pci_resource_len(dev->pdev, 0) < VSHMEM_BAR0_SIZE ||
	    !(pci_resource_flags(dev->pdev, 0) & IORESOURCE_MEM)) {
		dev_err(parent, "BAR0 is not that of an ivshmem device\n");
		return -EINVAL;
	}
	if (!devm_request_mem_region(parent, bar0, VSHMEM_BAR0_SIZE,
				     "uio_vshmem"))
		return -EBUSY;
	dev->regs = devm_ioremap(parent, bar0, VSHMEM_BAR0_SIZE);
	if (!dev->regs)
		return -ENOMEM;

	dev->ivposition = readl(dev->regs + VSHMEM_REG_IVPOSITION);
	if (dev->ivposition > 0xffff) {
		dev_err(parent,
			"the ivshmem server gave this device no id (IVPosition %d); restart the VM with the server running\n",
			(s32)dev->ivposition);
		return -ENODEV;
	}
	return 0;
}

static void vshmem_put_action(void *dev)
{
	vshmem_put(dev);
}

static int vshmem_probe(struct pci_dev *pdev, const struct pci_device_id *id)
{
	struct vshmem_dev *dev;
	int vectors, ret;

	vectors = pci_msix_vec_count(pdev);
	if (vectors < 1) {
		dev_err(&pdev->dev,
			"no MSI-X: this is ivshmem-plain, or ivshmem-doorbell with msi=off, and has no doorbell; use -device ivshmem-doorbell,vectors=2\n");
		return -ENODEV;
	}
	if (pdev->revision < 1) {
		dev_err(&pdev->dev, "ivshmem revision 0 (QEMU before 2.6) is not supported\n");
		return -ENODEV;
	}
	vectors = min(vectors, VSHMEM_VECTORS_MAX);

	ret = pcim_enable_device(pdev);
	if (ret)
		return ret;

	dev = kzalloc(struct_size(dev, vector, vectors), GFP_KERNEL);
	if (!dev)
		return -ENOMEM;
	kref_init(&dev->ref);
	/*
	 * Our reference goes last of all managed resources: the struct pages
	 * of BAR2, torn down after remove(), use dev->pgmap.
	 */
	ret = devm_add_action_or_reset(&pdev->dev, vshmem_put_action, dev);
	if (ret)
		return ret;
	dev->pdev = pdev;
	ret = vshmem_wait_init(dev);
	if (ret)
		return ret;
	ret = vshmem_map_bar0(dev);
	if (ret)
		return ret;
	ret = vshmem_map_bar2(dev);
	if (ret)
		return ret;

	ret = ida_alloc(&vshmem_ida, GFP_KERNEL);
	if (ret < 0)
		return ret;
	dev->nr = ret;
	snprintf(dev->name, sizeof(dev->name), "vshmem%d", dev->nr);

	pci_set_master(pdev);
	ret = pci_alloc_irq_vectors(pdev, 1, vectors, PCI_IRQ_MSIX);
	if (ret < 0) {
		dev_err(&pdev->dev, "no interrupt vectors (%d)\n", ret);
		goto free_nr;
	}
	dev->vectors = ret;

	ret = vshmem_register_uio(dev);
	if (ret)
		goto free_vectors;
	ret = vshmem_request_irqs(dev);
	if (ret)
		goto unregister_uio;

	dev->panic_nb.notifier_call = vshmem_panic;
	dev->reboot_nb.notifier_call = vshmem_reboot;
	atomic_notifier_chain_register(&panic_notifier_list, &dev->panic_nb);
	register_reboot_notifier(&dev->reboot_nb);

	dev->misc.minor = MISC_DYNAMIC_MINOR;
	dev->misc.name = dev->name;
	dev->misc.fops = &vshmem_fops;
	dev->misc.parent = &pdev->dev;
	/* The endpoint opens it for tasks that may not. */
	dev->misc.mode = 0600;
	ret = misc_register(&dev->misc);
	if (ret)
		goto free_irqs;

	pci_set_drvdata(pdev, dev);
	dev_info(&pdev->dev, "%s: ivshmem id %u, %u vectors, %llu MiB at %pa\n",
		 dev->name, dev->ivposition, dev->vectors, dev->mem_size >> 20,
		 &dev->mem_phys);
	return 0;

free_irqs:
	unregister_reboot_notifier(&dev->reboot_nb);
	atomic_notifier_chain_unregister(&panic_notifier_list, &dev->panic_nb);
	vshmem_free_irqs(dev, dev->vectors);
unregister_uio:
	vshmem_unregister_uio(dev, dev->vectors);
free_vectors:
	pci_free_irq_vectors(pdev);
free_nr:
	ida_free(&vshmem_ida, dev->nr);
	return ret;
}

/*
 * Files, mappings and sleepers may outlive this: they find the device dead.
 * The region and the registers go by devres when this returns, so by then
 * nobody may be able to reach them.
 */
static void vshmem_remove(struct pci_dev *pdev)
{
	struct vshmem_dev *dev = pci_get_drvdata(pdev);

	misc_deregister(&dev->misc);
	unregister_reboot_notifier(&dev->reboot_nb);
	atomic_notifier_chain_unregister(&panic_notifier_list, &dev->panic_nb);

	/* Without a driver, this kernel is no peer: that is a death. */
	vshmem_cut_off(dev);
	vshmem_announce_death(dev);
	vshmem_unbind(dev);

	vshmem_free_irqs(dev, dev->vectors);
	cancel_work_sync(&dev->drain_work);
	vshmem_unregister_uio(dev, dev->vectors);
	pci_free_irq_vectors(pdev);

	vshmem_wait_unpinned(dev);
	ida_free(&vshmem_ida, dev->nr);
}

static const struct pci_device_id vshmem_ids[] = {
	{ PCI_DEVICE(0x1af4, 0x1110) },
	{ }
};
MODULE_DEVICE_TABLE(pci, vshmem_ids);

static struct pci_driver vshmem_driver = {
	.name		= "uio_vshmem",
	.id_table	= vshmem_ids,
	.probe		= vshmem_probe,
	.remove		= vshmem_remove,
};

static int __init vshmem_init(void)
{
	int ret = vshmem_map_init();

	if (ret)
		return ret;
	ret = pci_register_driver(&vshmem_driver);
	if (ret)
		vshmem_map_exit();
	return ret;
}
module_init(vshmem_init);

static void __exit vshmem_exit_module(void)
{
	pci_unregister_driver(&vshmem_driver);
	vshmem_map_exit();
}
module_exit(vshmem_exit_module);

MODULE_DESCRIPTION("Shared memory and doorbells of ivshmem-doorbell devices");
MODULE_VERSION("0.1.0");
MODULE_LICENSE("GPL");
