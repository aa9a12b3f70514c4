//! libvshmem.so: the C API of vshmem and the libc symbols for preloading.
