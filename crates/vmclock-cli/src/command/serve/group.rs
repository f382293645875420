// SPDX-License-Identifier: MIT OR Apache-2.0
//! The group that may connect to the service.

use anyhow::Context;

const GROUPS: &str = "/etc/group";

/// The number of a group, by its name in `/etc/group` or as it is.
pub(super) fn number(group: &str) -> anyhow::Result<u32> {
    if let Ok(number) = group.parse() {
        return Ok(number);
    }
    let groups = std::fs::read_to_string(GROUPS).with_context(|| format!("{GROUPS}: cannot be read"))?;
    in_groups(&groups, group)
        .with_context(|| format!("group = {group:?}: {GROUPS} has no such group; make it, or state its number"))
}

fn in_groups(groups: &str, group: &str) -> Option<u32> {
    let of_line = |line: &str| {
        let mut fields = line.split(':');
        (fields.next() == Some(group)).then(|| fields.nth(1)?.parse().ok())?
    };
    groups.lines().find_map(of_line)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_has_a_number() {
        let groups = "root:x:0:\nvmclock:x:990:libvirt-qemu,prometheus\nbroken\n";
        assert_eq!((in_groups(groups, "vmclock"), in_groups(groups, "root")), (Some(990), Some(0)));
        assert_eq!((in_groups(groups, "broken"), in_groups(groups, "vm")), (None, None));
        assert_eq!(number("17").expect("a number"), 17);
        let error = number("no-such-group").expect_err("none").to_string();
        assert!(error.contains("no-such-group") && error.contains("state its number"), "{error}");
    }
}
