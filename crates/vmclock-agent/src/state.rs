// SPDX-License-Identifier: MIT OR Apache-2.0
//! What an agent leaves to the next one: the last epoch that it dealt with.

use std::fs;
use std::io::{self, ErrorKind, Write};
use std::path::Path;

use serde::{Deserialize, Serialize};
use vmclock_core::event::Epoch;

/// The file's form.
#[derive(Debug, Serialize, Deserialize)]
struct File {
    version: u32,
    disruption_marker: u64,
    generation: Option<u64>,
}

const VERSION: u32 = 1;

/// Writes the epoch, so that a crash at any moment leaves the old file or the new one.
///
/// ```
/// use vmclock_agent::state;
/// use vmclock_core::event::Epoch;
/// let folder = tempfile::tempdir()?;
/// let path = folder.path().join("agent.state");
/// let epoch = Epoch { disruption_marker: 7, generation: Some(8) };
/// state::save(&path, epoch)?;
/// assert_eq!(state::load(&path)?, Some(epoch));
/// # Ok::<(), std::io::Error>(())
/// ```
pub fn save(path: &Path, epoch: Epoch) -> io::Result<()> {
    let file = File { version: VERSION, disruption_marker: epoch.disruption_marker, generation: epoch.generation };
    let text = serde_json::to_string(&file)?;
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    let mut new = path.as_os_str().to_owned();
    new.push(".new");
    let mut writer = fs::File::create(&new)?;
    writer.write_all(text.as_bytes())?;
    writer.sync_data()?;
    fs::rename(&new, path)
}

/// The epoch that was written last; none where there is no file.
pub fn load(path: &Path) -> io::Result<Option<Epoch>> {
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let file: File = serde_json::from_str(&text)?;
    if file.version != VERSION {
        return Err(io::Error::other(format!("its version is {}, and not {VERSION}", file.version)));
    }
    Ok(Some(Epoch { disruption_marker: file.disruption_marker, generation: file.generation }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_read_is_an_error_and_what_is_missing_is_none() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("agent.state");
        assert_eq!(load(&path).expect("missing"), None);
        for text in ["", "{", "{\"version\":2,\"disruption_marker\":1,\"generation\":null}", "\0\0\0\0"] {
            fs::write(&path, text).expect("written");
            assert!(load(&path).is_err(), "{text:?}");
        }
        let epoch = Epoch { disruption_marker: u64::MAX, generation: None };
        save(&path, epoch).expect("saved over what was wrong");
        assert_eq!(load(&path).expect("in order"), Some(epoch));
    }
}
