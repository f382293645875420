// SPDX-License-Identifier: MIT OR Apache-2.0
//! The native half of the Python package `vmclock`: the crate `vmclock` with Python's types. Its documentation is in the
//! package's stub, `python/vmclock/_native.pyi`, and its README.
#![allow(clippy::doc_markdown)] // the documentation is Python's

mod clock;
mod cross;
mod errors;
mod events;
mod mock;
mod reading;
mod snapshot;

#[pyo3::pymodule]
mod _native {
    #[pymodule_export]
    use super::clock::{default_page, Clock};
    #[pymodule_export]
    use super::cross::CrossTimestamp;
    #[pymodule_export]
    use super::events::{Event, Events, Notice};
    #[pymodule_export]
    use super::mock::MockPage;
    #[pymodule_export]
    use super::reading::{Epoch, Reading};
    #[pymodule_export]
    use super::snapshot::Snapshot;
}
