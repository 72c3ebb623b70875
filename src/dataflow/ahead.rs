//! Frames of live streams, told to whoever scores their windows before the
//! windows are whole: what does not depend on the newest frame is computed while
//! that one is still on its way.
//!
//! No answer comes of this, so nothing is held for it; a frame that is told here
//! comes once more in its clip, which decides. What waits in the queues is bounded
//! by the same credits: where there are none, no frame is read.

use std::collections::HashSet;

use timely::dataflow::StreamVec;
use timely::dataflow::channels::pact::Pipeline;
use timely::dataflow::operators::Operator;

use super::infer::Tasks;
use super::{Epoch, StreamEvent, StreamItem};

/// Extension: frames to the inference threads.
pub(super) trait LookAhead {
    /// Tells the inference threads of live streams' frames, and of streams' ends,
    /// as far as they want to know.
    fn look_ahead(self, tasks: Tasks);
}

impl LookAhead for StreamVec<'_, Epoch, StreamItem> {
    fn look_ahead(self, tasks: Tasks) {
        if !tasks.follows() {
            return;
        }
        let mut live = HashSet::new();
        self.sink(Pipeline, "Ahead", move |(input, _)| {
            input.for_each(|_, items| {
                for StreamItem { stream, event } in items.drain(..) {
                    match event {
                        StreamEvent::Opened(info) if info.live => {
                            live.insert(stream);
                        }
                        StreamEvent::Frame(frame) if live.contains(&stream) => {
                            tasks.look_ahead(stream, frame);
                        }
                        StreamEvent::Ended => {
                            live.remove(&stream);
                            tasks.end(stream);
                        }
                        StreamEvent::Opened(_) | StreamEvent::Frame(_) => {}
                    }
                }
            });
        });
    }
}
