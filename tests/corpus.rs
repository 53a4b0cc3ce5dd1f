//! What the fuzz targets keep in `fuzz/corpus`, through the same functions: what a fuzzer has found once is looked at in
//! every run, and so are the cases that were written by hand. Then a short run of inputs near those, changed by a seed:
//! blind, as libFuzzer is not, but without a build of its own (`make fuzz` is the long run).

#[path = "../fuzz/src/lib.rs"]
mod fuzz;
#[allow(dead_code)] // the other tests use more of it
#[path = "support/random.rs"]
mod random;

use std::fs;
use std::panic::catch_unwind;
use std::path::Path;
use std::thread;

use random::Random;

/// What nests in an input nests on the stack of apache-avro; a fuzzer runs in the first thread, which has as much.
const STACK_BYTES: usize = 8 << 20;

type Target = fn(&[u8]);

/// Files of a target's corpus by name.
fn kept(target: &str) -> Vec<(String, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    names(&folder).into_iter().map(|name| (name.clone(), fs::read(folder.join(name)).unwrap())).collect()
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut names: Vec<String> =
        entries.map(|entry| entry.unwrap().file_name().into_string().expect("a plain name")).collect();
    names.sort();
    names
}

/// The first of these inputs that the target does not take.
fn first_refused(run: Target, inputs: impl Iterator<Item = Vec<u8>> + Send + 'static) -> Option<Vec<u8>> {
    let refuses = move |input: &Vec<u8>| catch_unwind(|| run(input)).is_err();
    let runner = thread::Builder::new().stack_size(STACK_BYTES);
    runner.spawn(move || inputs.into_iter().find(refuses)).unwrap().join().unwrap()
}

#[test]
fn what_is_kept_passes_its_target() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus");
    assert_eq!(names(&corpus), fuzz::TARGETS.iter().map(|(name, _)| *name).collect::<Vec<&str>>());
    let mut failed = Vec::new();
    for (target, run) in fuzz::TARGETS {
        for (file, input) in kept(target) {
            if first_refused(*run, std::iter::once(input)).is_some() {
                failed.push(format!("{target}/{file}"));
            }
        }
    }
    assert!(failed.is_empty(), "in fuzz/corpus: {failed:#?}");
}

/// One to four changes: bytes turned, cut out, doubled, or taken from another input.
fn changed(random: &mut Random, input: &[u8], other: &[u8]) -> Vec<u8> {
    let mut input = input.to_vec();
    for _ in 0..=random.below(4) {
        let at = random.below(input.len() as u64 + 1) as usize;
        let end = at + random.below((input.len() - at) as u64 + 1).min(16) as usize;
        match random.below(6) {
            0 if at < input.len() => input[at] ^= 1 << random.below(8),
            1 if at < input.len() => input[at] = [0, 1, 0x7f, 0x80, 0xff, b'"', b'{', b'\n'][random.below(8) as usize],
            2 => drop(input.drain(at..end)),
            3 => drop(input.splice(at..at, input[at..end].to_vec())),
            4 if !other.is_empty() => {
                let from = random.below(other.len() as u64) as usize;
                let to = (from + 1 + random.below(32) as usize).min(other.len());
                drop(input.splice(at..end, other[from..to].iter().copied()));
            }
            _ => input.truncate(at.max(1)),
        }
    }
    input
}

#[test]
fn what_is_near_it_passes_too() {
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().expect("a number"));
    let now_ns = std::time::UNIX_EPOCH.elapsed().map_or(0, |now| now.as_nanos() as u64);
    let seed = number("SLUICEGATE_CORPUS_SEED").unwrap_or(now_ns % 1_000_000);
    let inputs = number("SLUICEGATE_CORPUS_INPUTS").unwrap_or(1_000);
    println!("{inputs} inputs a target: SLUICEGATE_CORPUS_SEED={seed} SLUICEGATE_CORPUS_INPUTS={inputs}");
    for (target, run) in fuzz::TARGETS {
        let (kept, mut random) = (kept(target), Random(seed));
        let near = (0..inputs).map(move |_| {
            let mut any = || &kept[random.below(kept.len() as u64) as usize].1;
            let (input, other) = (any(), any());
            changed(&mut random, input, other)
        });
        if let Some(input) = first_refused(*run, near) {
            let file = std::env::temp_dir().join(format!("{target}-{seed}"));
            fs::write(&file, &input).expect("it is kept");
            panic!("{target}, seed {seed}: {} is not taken: {}", file.display(), String::from_utf8_lossy(&input));
        }
    }
}
