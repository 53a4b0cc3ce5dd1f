//! Record sets that unfold to a thousand times their size.

use crate::support::hostile::{Codec, bomb, produce};
use crate::support::world::World;
use crate::support::{self, connect, update_saying, wait_for};
use crate::{BASE_MB, MINUTE};

#[test]
fn record_sets_that_unfold_to_a_thousand_times_their_size_become_letters_or_halt_their_partition() {
    const PART: usize = 1 << 20;
    let topic_settings = [("max.message.bytes", "8000000")];
    let mut world = World::with("bombs", support::brokers(), support::new_database("bombs"), 6, &topic_settings);
    world.produce(600);
    world.flush();
    // What each unfolds to, in parts of a megabyte. A whole record of more than the limit is the last.
    let passing = [(0, Codec::Gzip, 256), (1, Codec::Lz4, 128), (2, Codec::Snappy, 32), (3, Codec::Zstd, 24)];
    for (partition, codec, parts) in passing {
        let set = bomb(codec, parts, PART);
        assert!(set.len() * 20 < parts * PART, "{codec:?}: {} bytes", set.len());
        assert_eq!(produce(&world.brokers, &world.topic, partition, &set), 100);
        for offset in 0..parts as i64 {
            world.poison.push((partition, 100 + offset, "avro.trailing_bytes"));
        }
        world.produced[partition as usize] += parts as i64;
    }
    let halting = [
        (4, bomb(Codec::Zstd, 400, PART), "kafka.badcompression"),
        (5, bomb(Codec::Lz4, 1, 600 << 20), "record.too_large"),
    ];
    for (partition, set, _) in &halting {
        produce(&world.brokers, &world.topic, *partition, set);
    }
    // Behind each of them, more records; those behind the last two wait for a person.
    for partition in 0..6 {
        for _ in 0..100 {
            let offset = world.produced[partition as usize];
            world.send(partition, &update_saying(partition, offset, "SUCCESS", "behind"));
        }
    }
    world.flush();
    let mut instance = world.start();
    let body = wait_for("the reasons", 2 * MINUTE, || {
        let (status, body) = instance.get("/health/ready")?;
        (status == 503 && halting.iter().all(|(_, _, code)| body.contains(code))).then_some(body)
    });
    for (partition, _, _) in &halting {
        assert!(body.contains(&format!("{}/{partition}", world.topic)), "{body}");
    }
    wait_for("all the others", 2 * MINUTE, || (world.rows() >= 1000).then_some(()));
    assert!(instance.child.try_wait().expect("a child").is_none(), "it is the same process");
    let peak = instance.memory_peak_mb();
    println!("{peak:.0} MB at most, {:.0} MB in the end", instance.memory_now_mb());
    // What has unfolded, all at once, and a third on top while it was grown.
    assert!(peak <= BASE_MB + (256.0 + 128.0 + 32.0 + 24.0 + 100.0 + 600.0) * 1.34, "{peak:.0} MB");

    // The halted ones have everything that came before, and stand where the trouble is.
    let sql = "SELECT next_offset FROM sluicegate_ledger WHERE partition IN (4, 5) ORDER BY partition";
    let stand: Vec<i64> = connect(&world.url).query(sql, &[]).expect("rows").iter().map(|row| row.get(0)).collect();
    assert_eq!(stand, [100, 100]);
    // A person decides to go on behind them.
    drop(instance);
    let sql = "UPDATE sluicegate_ledger SET next_offset = CASE partition WHEN 4 THEN 500 ELSE 101 END
               WHERE partition IN (4, 5)";
    connect(&world.url).batch_execute(sql).expect("changed");
    let _again = world.start();
    wait_for("the rest", MINUTE, || (world.rows() >= 1200).then_some(()));
    let sql =
        "SELECT partition, count(*), sum(octet_length(payload))::bigint FROM sluicegate_letters GROUP BY 1 ORDER BY 1";
    let letters: Vec<(i32, i64, i64)> = connect(&world.url)
        .query(sql, &[])
        .expect("rows")
        .iter()
        .map(|row| (row.get(0), row.get(1), row.get(2)))
        .collect();
    let due: Vec<(i32, i64, i64)> =
        passing.iter().map(|(partition, _, parts)| (*partition, *parts as i64, (parts * PART) as i64)).collect();
    assert_eq!(letters, due);
}
