//! What the fuzz targets keep in `fuzz/corpus`, through the same functions: what a fuzzer has found once is looked at in
//! every run, and so are the cases that were written by hand.

#[path = "../fuzz/src/lib.rs"]
mod fuzz;

use std::fs;
use std::panic::catch_unwind;
use std::path::Path;
use std::thread;

/// What nests in an input nests on the stack of apache-avro; a fuzzer runs in the first thread, which has as much.
const STACK_BYTES: usize = 8 << 20;

#[test]
fn what_is_kept_passes_its_target() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus");
    let names = |folder: &Path| -> Vec<String> {
        let entries = fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
        let mut names: Vec<String> =
            entries.map(|entry| entry.unwrap().file_name().into_string().expect("a plain name")).collect();
        names.sort();
        names
    };
    assert_eq!(names(&corpus), fuzz::TARGETS.iter().map(|(name, _)| *name).collect::<Vec<&str>>());
    let mut failed = Vec::new();
    for (name, run) in fuzz::TARGETS {
        let folder = corpus.join(name);
        for file in names(&folder) {
            let input = fs::read(folder.join(&file)).unwrap();
            let runner = thread::Builder::new().stack_size(STACK_BYTES);
            let passes = runner.spawn(move || catch_unwind(|| run(&input)).is_ok()).unwrap().join().unwrap();
            if !passes {
                failed.push(format!("{name}/{file}"));
            }
        }
    }
    assert!(failed.is_empty(), "{failed:#?}: make fuzz TARGET=... FILE runs one again");
}
