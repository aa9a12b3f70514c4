//! What the host and the guest's first process say to each other; the other
//! side is `images/init/main.rs`.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use crate::{NetLink, Root, VmSpec};

/// Where the guest's agent and its clients meet.
pub(crate) const GUEST_RUNTIME_DIR: &str = "/run/vshmem";

/// The configuration: a line with its length, and `key=value` fields, each ended by NUL.
pub(crate) fn frame(spec: &VmSpec, net: Option<&NetLink>) -> Vec<u8> {
    let mut fields = Vec::new();
    let mut field = |key: &str, value: &OsStr| {
        fields.extend_from_slice(key.as_bytes());
        fields.push(b'=');
        fields.extend_from_slice(value.as_bytes());
        fields.push(0);
    };
    field("name", spec.name.as_ref());
    for arg in &spec.command {
        field("arg", arg);
    }
    for (name, value) in &spec.env {
        let mut pair = name.clone();
        pair.push("=");
        pair.push(value);
        field("env", &pair);
    }
    field("env", format!("VSHMEM_RUNTIME_DIR={GUEST_RUNTIME_DIR}").as_ref());
    // An isolated guest has none of the host's directories.
    let isolated = matches!(spec.root, Root::Isolated { .. });
    field("cwd", if isolated { "/".as_ref() } else { spec.cwd.as_os_str() });
    if let Some((uid, gid)) = spec.user {
        field("uid", uid.to_string().as_ref());
        field("gid", gid.to_string().as_ref());
    }
    if spec.stdin {
        field("stdin", "port".as_ref());
    }
    for region in &spec.regions {
        field("region", region.name.as_ref());
    }
    if let Some(agent) = &spec.agent {
        field("agent", agent.as_os_str());
    }
    if let Some(net) = net {
        field("address", net.address.to_string().as_ref());
    }
    match &spec.root {
        Root::Isolated { .. } => field("root", "isolated".as_ref()),
        Root::Host { shares } => {
            field("root", "host".as_ref());
            for share in shares {
                field("share", share.as_os_str());
            }
        }
    }
    let mut frame = format!("config {}\n", fields.len()).into_bytes();
    frame.extend_from_slice(&fields);
    frame
}

/// A line from the guest. The guest is not trusted: anything else is `Unknown`.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum FromGuest {
    /// The first process asks for its configuration: at every boot.
    Hello,
    /// The first process has found its ports.
    Booted,
    /// The command runs.
    Started,
    /// Something that the user should know, though the guest goes on.
    Notice(String),
    /// The guest gave up before the command's end.
    Fail(String),
    /// The command ended; counts of bytes sent on stdout and stderr.
    Exit {
        code: i32,
        out: u64,
        err: u64,
    },
    Unknown(String),
}

pub(crate) fn parse(line: &str) -> FromGuest {
    let unknown = || FromGuest::Unknown(line.to_string());
    let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
    match word {
        "hello" => FromGuest::Hello,
        "booted" => FromGuest::Booted,
        "started" => FromGuest::Started,
        "notice" => FromGuest::Notice(rest.to_string()),
        "fail" => FromGuest::Fail(rest.to_string()),
        "exit" => {
            let mut parts = rest.split(' ');
            let (code, out, err) = (parts.next(), parts.next(), parts.next());
            let number = |p: Option<&str>| p.and_then(|p| p.parse().ok());
            match (code.and_then(|c| c.parse().ok()), number(out), number(err)) {
                (Some(code @ 0..=255), Some(out), Some(err)) => FromGuest::Exit { code, out, err },
                _ => unknown(),
            }
        }
        _ => unknown(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_frame_names_everything_once() {
        let mut spec = VmSpec::new(["sh", "-c", "a b"]);
        spec.env = vec![("A".into(), "1=2".into())];
        spec.cwd = "/".into();
        spec.root = Root::Host { shares: vec!["/tmp/x".into()] };
        let spec = VmSpec { name: "a".into(), stdin: true, ..spec }.with_region(
            "demo",
            "/s".as_ref(),
            "/bin/true".as_ref(),
        );
        let bytes = frame(&spec, None);
        let text = String::from_utf8(bytes).unwrap();
        let (head, rest) = text.split_once('\n').unwrap();
        assert_eq!(head, format!("config {}", rest.len()));
        let fields: Vec<_> = rest.split_terminator('\0').collect();
        let want = [
            "name=a",
            "arg=sh",
            "arg=-c",
            "arg=a b",
            "env=A=1=2",
            "env=VSHMEM_RUNTIME_DIR=/run/vshmem",
            "cwd=/",
            "stdin=port",
            "region=demo",
            "agent=/bin/true",
            "root=host",
            "share=/tmp/x",
        ];
        assert_eq!(fields, want);
    }

    #[test]
    fn lines_of_a_hostile_guest_are_unknown_not_a_panic() {
        assert_eq!(parse("exit 3 10 0"), FromGuest::Exit { code: 3, out: 10, err: 0 });
        assert_eq!(parse("fail no root"), FromGuest::Fail("no root".into()));
        for line in ["", "exit", "exit x 1 1", "exit 1 1", "exit 1 -1 1", "exit 999 0 0", "\u{0}"] {
            assert!(matches!(parse(line), FromGuest::Unknown(_)), "{line:?}");
        }
    }
}
