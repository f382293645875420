// SPDX-License-Identifier: MIT OR Apache-2.0
//! Users of `/etc/passwd` and `/etc/group`. A static binary has no other sources of them.

use std::fs;
use std::path::Path;

/// Who a hook runs as.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Account {
    /// The user's number.
    pub uid: u32,
    /// The number of the user's own group.
    pub gid: u32,
    /// The numbers of the other groups.
    pub groups: Vec<u32>,
}

/// No user has this number: system calls take it for "leave it as it is".
const NOBODYS: u32 = u32::MAX;

/// A user by name or number, with its groups; or `uid:gid`, which needs no file and has no other groups.
pub(super) fn find(user: &str) -> Result<Account, String> {
    find_in(user, Path::new("/etc/passwd"), Path::new("/etc/group"))
}

fn find_in(user: &str, passwd: &Path, group: &Path) -> Result<Account, String> {
    if let Some((uid, gid)) = user.split_once(':') {
        let numbers = number(uid).zip(number(gid));
        let (uid, gid) = numbers.ok_or_else(|| format!("{user:?} is no uid:gid; write it like 1000:1000"))?;
        return Ok(Account { uid, gid, groups: Vec::new() });
    }
    let text = read(passwd)?;
    let by_number = number(user);
    let found = text.lines().find_map(|line| {
        // name:password:uid:gid:...
        let mut fields = line.split(':');
        let (name, _, uid, gid) = (fields.next()?, fields.next()?, number(fields.next()?)?, number(fields.next()?)?);
        (name == user || by_number == Some(uid)).then_some((name, uid, gid))
    });
    let Some((name, uid, gid)) = found else {
        return Err(format!("{} has no user {user:?}: add it, or write uid:gid", passwd.display()));
    };
    let text = read(group)?;
    let groups = text.lines().filter_map(|line| {
        // name:password:gid:members
        let mut fields = line.split(':').skip(2);
        let (gid, members) = (number(fields.next()?)?, fields.next()?);
        members.split(',').any(|member| member == name).then_some(gid)
    });
    Ok(Account { uid, gid, groups: groups.filter(|&other| other != gid).collect() })
}

fn number(text: &str) -> Option<u32> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|&number| digits && number != NOBODYS)
}

fn read(path: &Path) -> Result<String, String> {
    let bytes = fs::read(path).map_err(|error| format!("{} cannot be read: {error}; write uid:gid", path.display()))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find_here(user: &str) -> Result<Account, String> {
        let folder = tempfile::tempdir().unwrap();
        let (passwd, group) = (folder.path().join("passwd"), folder.path().join("group"));
        let users =
            b"root:x:0:0:root:/root:/bin/sh\nbroken\n+::::::\n\xff:x:9:9\nweb:x:33:33::/:\nmax:x:4294967295:1::/:";
        fs::write(&passwd, users).unwrap();
        fs::write(&group, "root:x:0:\nssl:x:110:db,web\nwebs:x:111:webs\nweb:x:33:web\nlog:x:112:web\nx:y\n").unwrap();
        find_in(user, &passwd, &group)
    }

    #[test]
    fn by_name_and_by_number() {
        let web = Account { uid: 33, gid: 33, groups: vec![110, 112] };
        assert_eq!(find_here("web"), Ok(web.clone()));
        assert_eq!(find_here("33"), Ok(web));
        assert_eq!(find_here("root"), Ok(Account { uid: 0, gid: 0, groups: vec![] }));
        assert_eq!(find_here("1000:1001"), Ok(Account { uid: 1000, gid: 1001, groups: vec![] }));
    }

    #[test]
    fn who_is_not_there() {
        for user in ["", "we", "34", "max", "4294967295", "-1", "+33", "1:", ":1", "1:4294967295", "1:2:3", "web:web"] {
            assert!(find_here(user).is_err(), "{user:?}");
        }
        let error = find_in("web", Path::new("/nonexistent/passwd"), Path::new("/etc/group")).unwrap_err();
        assert!(error.starts_with("/nonexistent/passwd cannot be read: "), "{error}");
    }
}
