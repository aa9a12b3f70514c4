//! The bytes that once broke something, or lead far inside, harm nothing.
#![allow(missing_docs)]

use std::path::Path;
use vshmem_fuzz::TARGETS;

#[test]
fn what_was_found_once_harms_nothing() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
    for target in TARGETS {
        let mut files: Vec<_> = std::fs::read_dir(corpus.join(target.name))
            .unwrap_or_else(|e| panic!("no corpus of {}: {e}", target.name))
            .map(|entry| entry.unwrap().path())
            .collect();
        files.sort();
        assert!(!files.is_empty(), "{} has no corpus", target.name);
        for file in files {
            println!("{}", file.display());
            (target.run)(&std::fs::read(&file).unwrap());
        }
    }
}

#[test]
fn any_bytes_harm_nothing() {
    let mut rng = vshmem_fuzz::scribble::Rng::new(1);
    for target in TARGETS {
        for _ in 0..300 {
            let n = rng.below(400);
            let bytes: Vec<u8> = (0..n).map(|_| rng.draw() as u8).collect();
            (target.run)(&bytes);
        }
    }
}
