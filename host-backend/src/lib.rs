//! vshmemd: regions, ivshmem server, policy and logs of the host.
