//! Starts and describes virtual machines with a vshmem region attached.
