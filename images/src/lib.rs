//! Guest kernels and root file systems made from Debian's packages.
