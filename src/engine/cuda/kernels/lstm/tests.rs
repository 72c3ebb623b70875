use super::*;

/// Blocks and their units, on a card with this many KiB of shared memory.
fn layout(hidden: usize, kib: usize, clusters: bool) -> Option<(usize, usize)> {
    let limits = Limits {
        multiprocessors: 80,
        shared_bytes: kib * 1024,
        warpgroups: false,
        tma: false,
        boxes: false,
        clusters,
        pairs: false,
    };
    let units = lstm_units(Precision::F16, hidden, limits)?;
    Some((hidden.div_ceil(units), units))
}

#[test]
fn a_recurrence_takes_as_few_blocks_as_a_card_has_room_for() {
    let layout = |hidden, kib| layout(hidden, kib, false);
    // What registers hold needs no other block, on any card.
    assert_eq!(layout(16, 48), Some((1, 16)));
    assert_eq!(layout(128, 48), Some((1, 128)));
    assert_eq!(layout(144, 227), Some((2, 72)));
    assert_eq!(layout(256, 227), Some((2, 128)));
    assert_eq!(layout(256, 99), Some((3, 88)));
    assert_eq!(layout(320, 227), Some((3, 112)));
    assert_eq!(layout(512, 227), Some((8, 64)));
    assert_eq!(layout(8192, 99), None);
}

#[test]
fn a_recurrence_takes_a_cluster_where_it_can() {
    let layout = |hidden, kib| layout(hidden, kib, true);
    assert_eq!(layout(128, 227), Some((1, 128)));
    assert_eq!(layout(256, 227), Some((2, 128)));
    assert_eq!(layout(320, 227), Some((4, 80)));
    assert_eq!(layout(512, 227), Some((8, 64)));
    // More than a cluster holds.
    assert_eq!(layout(640, 227), Some((14, 48)));
}
