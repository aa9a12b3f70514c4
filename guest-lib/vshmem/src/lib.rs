//! System V IPC between virtual machines, containers and the host.
