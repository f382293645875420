// SPDX-License-Identifier: MIT OR Apache-2.0 OR BSD-3-Clause
//! What a guest is protected from: its host may not know its counter, or not reach its memory.

use std::fmt;

use super::KvmError;

/// Types of machine, of `KVM_CREATE_VM` on x86-64.
const SW_PROTECTED: u64 = 1;
const SEV: u64 = 2;
const SEV_ES: u64 = 3;
const SNP: u64 = 4;
const TDX: u64 = 5;

/// `SEV_FEATURES` of a VMSA (AMD's manual, volume 2, appendix B): the guest has a counter of its own.
const SECURE_TSC: u64 = 1 << 9;

/// How a guest is protected from its host.
///
/// ```
/// use vmclock_vmm::kvm::Protection;
///
/// assert_eq!(Protection::of(0, 0), Protection::None);
/// let snp = Protection::of(4, 0);
/// assert!(snp.needs_shared_memory() && snp.check_counter().is_ok());
/// assert!(Protection::of(4, 1 << 9).check_counter().is_err()); // SecureTSC
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
pub enum Protection {
    /// It is not.
    None,
    /// Its private memory is encrypted or unmapped; its counter is the host's to set (SEV, SEV-ES, SEV-SNP).
    Memory,
    /// AMD's SEV-SNP with `SecureTSC`: offset and frequency are the secure processor's.
    SecureTsc,
    /// Intel's TDX: offset and frequency are the TDX module's.
    Tdx,
}

impl Protection {
    /// Of a machine of this type (`KVM_CREATE_VM`), with these SEV features (`KVM_SEV_INIT2`, or 0).
    pub const fn of(machine: u64, sev_features: u64) -> Self {
        match machine {
            TDX => Self::Tdx,
            SNP if sev_features & SECURE_TSC != 0 => Self::SecureTsc,
            SW_PROTECTED | SEV | SEV_ES | SNP => Self::Memory,
            _ => Self::None,
        }
    }

    /// Whether the page has to be in memory that the guest shares with its host, unencrypted. Linux maps the page
    /// as its firmware describes it; a monitor has to leave it out of the private memory.
    pub const fn needs_shared_memory(self) -> bool {
        !matches!(self, Self::None)
    }

    /// Refuses a guest whose counter the host does not know: it gets a device without a counter, which still signals
    /// events.
    pub const fn check_counter(self) -> Result<(), KvmError> {
        match self {
            Self::None | Self::Memory => Ok(()),
            Self::SecureTsc | Self::Tdx => Err(KvmError::Protected(self)),
        }
    }
}

impl fmt::Display for Protection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let counter_of = |owner| {
            format!("the guest's counter is {owner}, and KVM's offset is not that of it; give it a device without a counter")
        };
        match self {
            Self::None => f.write_str("the guest is not protected from its host"),
            Self::Memory => f.write_str("the guest's private memory is out of its host's reach; give it a shared page"),
            Self::SecureTsc => f.write_str(&counter_of("its own (SEV-SNP with SecureTSC)")),
            Self::Tdx => f.write_str(&counter_of("the TDX module's")),
        }
    }
}
