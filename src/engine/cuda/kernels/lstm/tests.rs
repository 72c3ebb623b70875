use super::*;

/// Blocks and their units, on a card with this many KiB of shared memory.
fn layout(hidden: usize, kib: usize) -> Option<(usize, usize)> {
    let limits = Limits {
        multiprocessors: 80,
        shared_bytes: kib * 1024,
        warpgroups: false,
        tma: false,
        boxes: false,
    };
    let units = lstm_units(Precision::F16, hidden, limits)?;
    Some((hidden.div_ceil(units), units))
}

#[test]
fn a_recurrence_takes_as_few_blocks_as_a_card_has_room_for() {
    // What registers hold needs no other block, on any card.
    assert_eq!(layout(16, 48), Some((1, 16)));
    assert_eq!(layout(128, 48), Some((1, 128)));
    assert_eq!(layout(144, 227), Some((2, 72)));
    assert_eq!(layout(256, 227), Some((2, 128)));
    assert_eq!(layout(256, 99), Some((3, 88)));
    assert_eq!(layout(512, 227), Some((8, 64)));
    assert_eq!(layout(8192, 99), None);
}
