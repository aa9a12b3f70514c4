//! Finds, opens and wraps the uio_vshmem kernel module's devices.
