//! Prints the C header of the region's constants, `guest-driver/uio_vshmem/vshmem_region.h`.
fn main() {
    print!("{}", vshmem_core::layout::c_header());
}
