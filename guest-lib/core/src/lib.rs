//! The bytes every vshmem peer shares: layout, transactions, arena, wait slots. No I/O.
