//! x
use crate::cli::PageArgs;
use std::process::ExitCode;
pub(crate) fn run(_args: &PageArgs) -> anyhow::Result<ExitCode> {
    Ok(ExitCode::SUCCESS)
}
