//! Conformance, crash and VM tests.
