//! Dependencies point one way: the manifests are read and an upward edge fails.

use std::collections::{BTreeMap, BTreeSet};

use vshmem_tests::build::root;

/// What each library may use; whatever is not here stands on top and may use
/// all of them.
const LAYERS: &[(&str, &[&str])] = &[
    ("vshmem-core", &[]),
    ("vshmem-sysv", &["vshmem-core"]),
    ("vshmem-driver", &["vshmem-core"]),
    ("vshmem", &["vshmem-core", "vshmem-sysv", "vshmem-driver"]),
    ("vshmem-capi", &["vshmem-core", "vshmem-sysv", "vshmem-driver", "vshmem"]),
    ("vshmem-trap", &["vshmem-core", "vshmem-sysv", "vshmem-driver", "vshmem"]),
    ("vshmem-endpoint", &["vshmem-core", "vshmem-sysv", "vshmem-driver"]),
    ("vshmem-host", &["vshmem-core", "vshmem-sysv", "vshmem-endpoint"]),
    ("vshmem-images", &[]),
    ("vshmem-vmm", &["vshmem-images"]),
    // How to build and start everything: it uses no library of ours.
    ("vshmem-tests", &[]),
];

/// The packages that nothing depends on.
const TOP: &[&str] = &["vshmem-cli", "vshmem-bench", "vshmem-fuzz", "xtask", "vshmem-capi"];

fn ours(name: &str) -> bool {
    name == "xtask" || name == "vshmem" || name.starts_with("vshmem-")
}

/// Every package of the workspace with those of ours that it depends on.
fn edges() -> BTreeMap<String, BTreeSet<String>> {
    let read = |path: &str| -> toml::Table {
        let text = std::fs::read_to_string(root().join(path)).unwrap();
        text.parse().unwrap_or_else(|e| panic!("{path}: {e}"))
    };
    let workspace = read("Cargo.toml");
    let mut found = BTreeMap::new();
    for member in workspace["workspace"]["members"].as_array().unwrap() {
        let manifest = read(&format!("{}/Cargo.toml", member.as_str().unwrap()));
        let name = manifest["package"]["name"].as_str().unwrap().to_owned();
        let mut uses = BTreeSet::new();
        // Tests of a lower layer may not reach upward either.
        for table in ["dependencies", "dev-dependencies", "build-dependencies"] {
            let Some(table) = manifest.get(table).and_then(|t| t.as_table()) else { continue };
            uses.extend(table.keys().filter(|k| ours(k)).cloned());
        }
        found.insert(name, uses);
    }
    found
}

#[test]
fn no_package_depends_on_a_layer_above_it() {
    let edges = edges();
    let mut wrong = Vec::new();
    for (name, uses) in &edges {
        let allowed = LAYERS.iter().find(|(layer, _)| layer == name).map(|(_, below)| *below);
        for used in uses {
            let bad = match allowed {
                Some(below) => !below.contains(&used.as_str()),
                None => TOP.contains(&used.as_str()),
            };
            if bad {
                wrong.push(format!("{name} -> {used}"));
            }
        }
    }
    assert!(wrong.is_empty(), "upward dependencies: {}", wrong.join(", "));
}

#[test]
fn every_package_has_its_place_in_the_layers() {
    for name in edges().keys() {
        let known = LAYERS.iter().any(|(layer, _)| layer == name) || TOP.contains(&name.as_str());
        assert!(known, "{name} is in no layer: give it a place in tests/tests/layers.rs");
    }
}

#[test]
fn the_layers_themselves_have_no_cycle() {
    let below =
        |name: &str| LAYERS.iter().find(|(layer, _)| *layer == name).map_or(&[][..], |(_, b)| *b);
    for (name, uses) in LAYERS {
        for used in *uses {
            assert!(!below(used).contains(name), "{name} and {used} use each other");
            // What a layer may use, those above it may use as well: the order is transitive.
            for further in below(used) {
                let skips_driver = *further == "vshmem-driver";
                assert!(
                    skips_driver || uses.contains(further),
                    "{name} uses {used}, which uses {further}"
                );
            }
        }
    }
}
