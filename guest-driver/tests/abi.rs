//! The Rust mirror of the ioctl interface against the C header, as the C compiler sees it.

use std::collections::BTreeMap;
use std::mem::{offset_of, size_of};
use std::path::Path;
use std::process::Command;

use vshmem_driver::abi::{self, Bind, Info, Ring, Wait, Wake};

/// One table entry per field: the C spelling and the Rust value.
macro_rules! layouts {
    ($($c:literal $rust:ident { $($field:ident),* })*) => {
        vec![$(
            (format!("sizeof(struct {})", $c), size_of::<$rust>() as u64),
            $((
                format!("offsetof(struct {}, {})", $c, stringify!($field)),
                offset_of!($rust, $field) as u64,
            ),)*
        )*]
    };
}

#[test]
fn constants_and_layouts_equal_those_of_the_c_header() {
    let mut ours = layouts! {
        "vshmem_info" Info { bar2_size, ivposition, vectors, bound, abi }
        "vshmem_bind" Bind {
            peer_off, wake_off, lanes_off, lane_stride, lane_count, status_off, summary_words,
            dead_value, host_id, host_vector, wake_vector, pad
        }
        "vshmem_wait" Wait { off, expected, flags, sec, nsec }
        "vshmem_wake" Wake { off, count, pad }
        "vshmem_ring" Ring { peer, vector }
    };
    for (name, value) in [
        ("VSHMEM_ABI_VERSION", abi::VERSION),
        ("VSHMEM_SUMMARY_WORDS_MAX", abi::SUMMARY_WORDS_MAX),
        ("VSHMEM_WAIT_DEADLINE", abi::WAIT_DEADLINE),
        ("VSHMEM_IOC_INFO", abi::IOC_INFO),
        ("VSHMEM_IOC_BIND", abi::IOC_BIND),
        ("VSHMEM_IOC_UNBIND", abi::IOC_UNBIND),
        ("VSHMEM_IOC_WAIT", abi::IOC_WAIT),
        ("VSHMEM_IOC_WAKE", abi::IOC_WAKE),
        ("VSHMEM_IOC_RING", abi::IOC_RING),
    ] {
        ours.push((name.to_owned(), value.into()));
    }

    let mut source = String::from("#include <stddef.h>\n#include <stdio.h>\n");
    source += "#include \"vshmem_abi.h\"\nint main(void)\n{\n";
    for (expression, _) in &ours {
        source += &format!(
            "printf(\"%s=%llu\\n\", \"{expression}\", (unsigned long long)({expression}));\n"
        );
    }
    source += "return 0;\n}\n";

    let dir = tempfile::tempdir().unwrap();
    let (c, exe) = (dir.path().join("abi.c"), dir.path().join("abi"));
    std::fs::write(&c, source).unwrap();
    let header = Path::new(env!("CARGO_MANIFEST_DIR")).join("uio_vshmem");
    let compiled = Command::new("cc")
        .args(["-std=gnu99", "-Wall", "-Wextra", "-Wpadded", "-Werror", "-I"])
        .args([&header, Path::new("-o"), &exe, &c])
        .output()
        .expect("a C compiler is needed: apt-get install gcc");
    assert!(compiled.status.success(), "{}", String::from_utf8_lossy(&compiled.stderr));

    let output = Command::new(&exe).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let theirs: BTreeMap<&str, u64> = text
        .lines()
        .map(|line| line.rsplit_once('=').unwrap())
        .map(|(name, value)| (name, value.parse().unwrap()))
        .collect();
    assert_eq!(theirs.len(), ours.len());
    for (name, value) in &ours {
        assert_eq!(theirs[name.as_str()], *value, "{name}");
    }
}
