//! x
use crate::cli::SignalArgs;
use std::process::ExitCode;
pub(crate) fn run(_args: &SignalArgs) -> anyhow::Result<ExitCode> {
    Ok(ExitCode::SUCCESS)
}
