//! How far reserving orders scales, by a small model: `cargo bench --bench scaling -- [NAME=VALUE...]`.
//!
//! Writers of one database copy their orders on its cores, then take the lock of a bucket of the popular product, hold
//! it for the UPDATE and the COMMIT, and begin anew. Nothing else is in it. `docs/SCALING.md` says where its numbers
//! come from and what its table means. Time goes from event to event, so that a run is the same every time.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::process::ExitCode;

/// What is measured, and what is chosen. Times in microseconds.
#[derive(Clone, Copy, Debug)]
struct Shop {
    cores: usize,
    writers: usize,
    buckets: usize,
    /// Orders of one transaction.
    group: usize,
    /// CPU of the database for one order, outside the lock.
    order_us: f64,
    /// CPU under the lock: the lock itself, the UPDATE, the ledger.
    locked_us: f64,
    /// Waiting for the disk under the lock; no core is busy with it.
    flush_us: f64,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Step {
    Copied,
    Updated,
    Flushed,
}

/// One simulated database: who waits for what.
struct World {
    shop: Shop,
    now_us: f64,
    events: BinaryHeap<Reverse<(u64, usize, Step)>>,
    cores_free: usize,
    for_core: VecDeque<(usize, Step, f64)>,
    bucket_of: Vec<usize>,
    held: Vec<bool>,
    for_bucket: Vec<VecDeque<usize>>,
    turn: usize,
    orders: u64,
}

impl World {
    fn new(shop: Shop) -> World {
        World {
            shop,
            now_us: 0.0,
            events: BinaryHeap::new(),
            cores_free: shop.cores,
            for_core: VecDeque::new(),
            bucket_of: vec![0; shop.writers],
            held: vec![false; shop.buckets],
            for_bucket: vec![VecDeque::new(); shop.buckets],
            turn: 0,
            orders: 0,
        }
    }

    fn after(&mut self, delay_us: f64, writer: usize, step: Step) {
        self.events.push(Reverse((((self.now_us + delay_us) * 1e3) as u64, writer, step)));
    }

    /// Keeps a core busy for so long, once there is one.
    fn compute(&mut self, writer: usize, step: Step, us: f64) {
        match self.cores_free {
            0 => self.for_core.push_back((writer, step, us)),
            _ => {
                self.cores_free -= 1;
                self.after(us, writer, step);
            }
        }
    }

    fn core_is_free(&mut self) {
        self.cores_free += 1;
        if let Some((writer, step, us)) = self.for_core.pop_front() {
            self.compute(writer, step, us);
        }
    }

    fn begin(&mut self, writer: usize) {
        self.bucket_of[writer] = self.turn % self.shop.buckets;
        self.turn += 1;
        self.compute(writer, Step::Copied, self.shop.order_us * self.shop.group as f64);
    }

    fn take_lock(&mut self, writer: usize) {
        let bucket = self.bucket_of[writer];
        match self.held[bucket] {
            true => self.for_bucket[bucket].push_back(writer),
            false => {
                self.held[bucket] = true;
                self.compute(writer, Step::Updated, self.shop.locked_us);
            }
        }
    }

    fn give_lock(&mut self, writer: usize) {
        let bucket = self.bucket_of[writer];
        self.held[bucket] = false;
        if let Some(next) = self.for_bucket[bucket].pop_front() {
            self.take_lock(next);
        }
    }

    fn run(mut self, seconds: f64) -> f64 {
        (0..self.shop.writers).for_each(|writer| self.begin(writer));
        while let Some(Reverse((at_ns, writer, step))) = self.events.pop() {
            self.now_us = at_ns as f64 / 1e3;
            if self.now_us > seconds * 1e6 {
                break;
            }
            match step {
                Step::Copied => {
                    self.core_is_free();
                    self.take_lock(writer);
                }
                Step::Updated => {
                    self.core_is_free();
                    self.after(self.shop.flush_us, writer, Step::Flushed);
                }
                Step::Flushed => {
                    self.orders += self.shop.group as u64;
                    self.give_lock(writer);
                    self.begin(writer);
                }
            }
        }
        self.orders as f64 / seconds
    }
}

fn rate(shop: Shop) -> f64 {
    World::new(shop).run(20.0)
}

fn main() -> ExitCode {
    let mut shop =
        Shop { cores: 2, writers: 4, buckets: 1, group: 10_000, order_us: 11.0, locked_us: 1_500.0, flush_us: 4_000.0 };
    for argument in std::env::args().skip(1).filter(|argument| !argument.starts_with('-')) {
        let given = argument.split_once('=').and_then(|(name, value)| Some((name, value.parse::<f64>().ok()?)));
        match given {
            Some(("cores", n)) => shop.cores = n as usize,
            Some(("writers", n)) => shop.writers = n as usize,
            Some(("group", n)) => shop.group = n as usize,
            Some(("order_us", us)) => shop.order_us = us,
            Some(("locked_us", us)) => shop.locked_us = us,
            Some(("flush_us", us)) => shop.flush_us = us,
            _ => {
                eprintln!("{argument}: give cores, writers, group, order_us, locked_us or flush_us as NAME=NUMBER");
                return ExitCode::from(2);
            }
        }
    }
    println!("{shop:?}\n");
    println!("orders/s reserved by one database, all of one product\n");
    println!("| cores | writers | 1 bucket | 2 buckets | 8 buckets | 64 buckets | cores alone would do |");
    println!("| ----: | ------: | -------: | --------: | --------: | ---------: | -------------------: |");
    for cores in [shop.cores, 8, 32, 64] {
        let here = Shop { cores, writers: shop.writers.max(2 * cores), ..shop };
        let of = |buckets| rate(Shop { buckets, ..here });
        let alone = cores as f64 * 1e6 / (here.order_us + here.locked_us / here.group as f64);
        println!(
            "| {cores} | {} | {:.0} | {:.0} | {:.0} | {:.0} | {alone:.0} |",
            here.writers,
            of(1),
            of(2),
            of(8),
            of(64)
        );
    }
    println!("\nand by the orders of a transaction, {} cores, 1 bucket\n", shop.cores);
    println!("| orders of a transaction | orders/s |\n| ----: | ----: |");
    for group in [1, 10, 100, 1_000, 10_000] {
        println!("| {group} | {:.0} |", rate(Shop { group, ..shop }));
    }
    ExitCode::SUCCESS
}
