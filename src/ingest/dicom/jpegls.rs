//! JPEG-LS, ISO/IEC 14495-1 (ITU-T T.87): the decoder, for eight bits.
//!
//! GStreamer has none that can be linked, and the usual library is C++. The
//! names of variables and of the annexes cited are those of the
//! recommendation, so that the two can be read side by side. Checked against
//! DCMTK's encoder (`CharLS`) in every interleave mode, lossless and near-lossless.

/// A decoded image.
pub(super) struct Image {
    pub(super) width: usize,
    pub(super) height: usize,
    pub(super) components: usize,
    /// Component after component within each pixel, `[height, width, components]`.
    pub(super) samples: Vec<u8>,
}

/// Decodes `data`; `None` if it is no eight-bit JPEG-LS image of at most
/// `largest` pixels and three components.
pub(super) fn decode(data: &[u8], largest: usize) -> Option<Image> {
    let mut reader = Segments { data, at: 0 };
    if reader.marker()? != 0xD8 {
        return None;
    }
    let mut image: Option<Image> = None;
    let mut preset = None;
    let mut scanned = 0;
    loop {
        match reader.marker()? {
            0xF7 => image = Some(frame_header(reader.segment()?, largest)?),
            0xF8 => preset = Some(Preset::read(reader.segment()?)?),
            0xDA => {
                let image = image.as_mut()?;
                let scan = Scan::read(reader.segment()?, image.components)?;
                let coding = Coding::new(&scan, preset)?;
                let bits = Bits::new(reader.rest());
                scanned += scan.components;
                let used = coding.scan(bits, image, scanned - scan.components)?;
                reader.at += used;
                if scanned >= image.components {
                    break;
                }
            }
            0xD9 => return None,
            _ => {
                reader.segment()?;
            }
        }
    }
    image
}

/// Annex C.2.2.
fn frame_header(segment: &[u8], largest: usize) -> Option<Image> {
    let &[8, y1, y0, x1, x0, components @ (1 | 3), ..] = segment else {
        return None;
    };
    let height = usize::from(u16::from_be_bytes([y1, y0]));
    let width = usize::from(u16::from_be_bytes([x1, x0]));
    let components = usize::from(components);
    let area = width * height;
    (1..=largest).contains(&area).then(|| Image {
        width,
        height,
        components,
        samples: vec![0; area * components],
    })
}

struct Segments<'a> {
    data: &'a [u8],
    at: usize,
}

impl<'a> Segments<'a> {
    /// The next marker, with fill bytes before it.
    fn marker(&mut self) -> Option<u8> {
        loop {
            match *self.data.get(self.at..)? {
                [0xFF, 0xFF, ..] => self.at += 1,
                [0xFF, marker, ..] => {
                    self.at += 2;
                    return Some(marker);
                }
                // What a scan left unread.
                [_, ..] => self.at += 1,
                [] => return None,
            }
        }
    }

    /// The segment behind a marker, without its length.
    fn segment(&mut self) -> Option<&'a [u8]> {
        let head = self.data.get(self.at..self.at + 2)?;
        let length = usize::from(u16::from_be_bytes([head[0], head[1]]));
        let segment = self.data.get(self.at + 2..self.at + length)?;
        self.at += length;
        Some(segment)
    }

    fn rest(&self) -> &'a [u8] {
        self.data.get(self.at..).unwrap_or_default()
    }
}

/// Preset coding parameters, annex C.2.4.1.1.
#[derive(Clone, Copy)]
struct Preset {
    maxval: i32,
    t1: i32,
    t2: i32,
    t3: i32,
    reset: i32,
}

impl Preset {
    fn read(segment: &[u8]) -> Option<Self> {
        let (&id, values) = segment.split_first()?;
        // Mapping tables and oversize images are not for eight-bit pictures.
        if id != 1 || values.len() < 10 {
            return None;
        }
        let value = |index: usize| {
            i32::from(u16::from_be_bytes([
                values[2 * index],
                values[2 * index + 1],
            ]))
        };
        Some(Self {
            maxval: value(0),
            t1: value(1),
            t2: value(2),
            t3: value(3),
            reset: value(4),
        })
    }
}

/// Annex C.2.3.
struct Scan {
    components: usize,
    near: i32,
    interleave: u8,
}

impl Scan {
    fn read(segment: &[u8], of: usize) -> Option<Self> {
        let (&components, rest) = segment.split_first()?;
        let components = usize::from(components);
        let &[near, interleave, _] = rest.get(2 * components..)? else {
            return None;
        };
        let fits = match interleave {
            0 => components == 1,
            1 | 2 => components == of,
            _ => false,
        };
        fits.then_some(Self {
            components,
            near: i32::from(near),
            interleave,
        })
    }
}

/// Annex A.7.1.2: how long runs are coded.
const J: [u32; 32] = [
    0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7, 8, 9, 10, 11, 12, 13,
    14, 15,
];

/// One context's statistics, annex A.2.1.
#[derive(Clone, Copy)]
struct Context {
    a: i32,
    b: i32,
    c: i32,
    n: i32,
}

/// The same of a run's end; `nn` counts negative errors.
#[derive(Clone, Copy)]
struct RunContext {
    a: i32,
    n: i32,
    nn: i32,
}

struct Coding {
    maxval: i32,
    near: i32,
    t: [i32; 3],
    reset: i32,
    range: i32,
    qbpp: u32,
    limit: u32,
    interleave: u8,
    components: usize,
    contexts: [Context; 365],
    runs: [RunContext; 2],
}

impl Coding {
    fn new(scan: &Scan, preset: Option<Preset>) -> Option<Self> {
        let given = preset.unwrap_or(Preset {
            maxval: 0,
            t1: 0,
            t2: 0,
            t3: 0,
            reset: 0,
        });
        let or = |value, default| if value == 0 { default } else { value };
        let near = scan.near;
        let maxval = or(given.maxval, 255);
        // Smaller alphabets have other defaults, and no scanner uses them.
        if maxval != 255 || near > maxval / 2 {
            return None;
        }
        // Annex C.2.4.1.1.1, where FACTOR is 1 for a MAXVAL of 255.
        let clamp = |value, low| {
            if value > maxval || value < low {
                low
            } else {
                value
            }
        };
        let t1 = or(given.t1, clamp(3 + 3 * near, near + 1));
        let t2 = or(given.t2, clamp(7 + 5 * near, t1));
        let t3 = or(given.t3, clamp(21 + 7 * near, t2));
        let reset = or(given.reset, 64);
        if !(near < t1 && t1 <= t2 && t2 <= t3 && t3 <= maxval && (3..=255).contains(&reset)) {
            return None;
        }
        let range = (maxval + 2 * near) / (2 * near + 1) + 1;
        let a = ((range + 32) / 64).max(2);
        Some(Self {
            maxval,
            near,
            t: [t1, t2, t3],
            reset,
            range,
            qbpp: (range - 1).ilog2() + 1,
            // 2 * (bpp + max(8, bpp)), with eight bits per sample.
            limit: 32,
            interleave: scan.interleave,
            components: scan.components,
            contexts: [Context {
                a,
                b: 0,
                c: 0,
                n: 1,
            }; 365],
            runs: [RunContext { a, n: 1, nn: 0 }; 2],
        })
    }

    /// Decodes one scan into the components from `first` on, and says how many
    /// bytes of `bits` it used.
    fn scan(mut self, mut bits: Bits<'_>, image: &mut Image, first: usize) -> Option<usize> {
        let (width, stride) = (image.width, image.components);
        // One sample of margin left and right, as in figure A.1.
        let mut above = vec![vec![0_i32; width + 2]; self.components];
        let mut lines = above.clone();
        let mut run_index = vec![0_usize; self.components];
        for y in 0..image.height {
            for (line, above) in lines.iter_mut().zip(&mut above) {
                line[0] = above[1];
                above[width + 1] = above[width];
            }
            if self.interleave == 2 {
                self.pixels(&mut bits, &above, &mut lines, &mut run_index[0])?;
            } else {
                for component in 0..self.components {
                    let index = &mut run_index[component];
                    let (above, line) = (&above[component..=component], component..=component);
                    self.pixels(&mut bits, above, &mut lines[line], index)?;
                }
            }
            for (component, line) in lines.iter().enumerate() {
                let row = &mut image.samples[y * width * stride..(y + 1) * width * stride];
                let samples = row.iter_mut().skip(first + component).step_by(stride);
                for (sample, &value) in samples.zip(&line[1..]) {
                    *sample = value as u8;
                }
            }
            std::mem::swap(&mut above, &mut lines);
        }
        Some(bits.used())
    }

    /// One line of one component, or of all of them pixel by pixel.
    fn pixels(
        &mut self,
        bits: &mut Bits<'_>,
        above: &[Vec<i32>],
        lines: &mut [Vec<i32>],
        run_index: &mut usize,
    ) -> Option<()> {
        let width = above.first()?.len() - 2;
        let mut x = 1;
        while x <= width {
            let is_run = above.iter().zip(&*lines).all(|(above, line)| {
                let (ra, rb, rc, rd) = (line[x - 1], above[x], above[x - 1], above[x + 1]);
                [rd - rb, rb - rc, rc - ra]
                    .iter()
                    .all(|d| d.abs() <= self.near)
            });
            if !is_run {
                for (above, line) in above.iter().zip(&mut *lines) {
                    line[x] = self.regular(bits, above, line, x)?;
                }
                x += 1;
                continue;
            }
            let length = run_length(bits, width + 1 - x, run_index)?;
            for line in &mut *lines {
                let ra = line[x - 1];
                line[x..x + length].fill(ra);
            }
            x += length;
            if x > width {
                break;
            }
            let several = lines.len() > 1;
            for (above, line) in above.iter().zip(&mut *lines) {
                line[x] = self.run_end(bits, line[x - 1], above[x], several, *run_index)?;
            }
            *run_index = run_index.saturating_sub(1);
            x += 1;
        }
        Some(())
    }

    /// Annexes A.3 to A.6.
    fn regular(
        &mut self,
        bits: &mut Bits<'_>,
        above: &[i32],
        line: &[i32],
        x: usize,
    ) -> Option<i32> {
        let (ra, rb, rc, rd) = (line[x - 1], above[x], above[x - 1], above[x + 1]);
        let q =
            81 * self.quantised(rd - rb) + 9 * self.quantised(rb - rc) + self.quantised(rc - ra);
        let sign = if q < 0 { -1 } else { 1 };
        let index = q.unsigned_abs() as usize;
        let context = *self.contexts.get(index)?;
        let median = if rc >= ra.max(rb) {
            ra.min(rb)
        } else if rc <= ra.min(rb) {
            ra.max(rb)
        } else {
            ra + rb - rc
        };
        let px = (median + sign * context.c).clamp(0, self.maxval);
        let k = golomb_parameter(context.n, context.a)?;
        let mapped = bits.golomb(k, self.limit, self.qbpp)?;
        let error = if self.near == 0 && k == 0 && 2 * context.b <= -context.n {
            unmapped(mapped ^ 1)
        } else {
            unmapped(mapped)
        };
        self.contexts[index] = context.updated(error, self.near, self.reset);
        Some(self.reconstructed(px, sign * error))
    }

    /// Annex A.7.2. Where components are interleaved by the pixel, a run ends
    /// for all of them, so that a difference is always to be expected.
    fn run_end(
        &mut self,
        bits: &mut Bits<'_>,
        ra: i32,
        rb: i32,
        several: bool,
        run_index: usize,
    ) -> Option<i32> {
        let ri_type = usize::from(!several && (ra - rb).abs() <= self.near);
        let context = self.runs[ri_type];
        let extra = ri_type as i32;
        let temp = context.a + if extra == 1 { context.n >> 1 } else { 0 };
        let k = golomb_parameter(context.n, temp)?;
        let coded = bits.golomb(k, self.limit - J[run_index] - 1, self.qbpp)?;
        let both = coded + extra;
        let map = both & 1;
        let size = (both + map) >> 1;
        let negative = (k != 0 || 2 * context.nn >= context.n) == (map == 1);
        let error = if negative { -size } else { size };
        let mut next = context;
        next.nn += i32::from(error < 0);
        next.a += (coded + 1 - extra) >> 1;
        if next.n == self.reset {
            next.a >>= 1;
            next.n >>= 1;
            next.nn >>= 1;
        }
        next.n += 1;
        self.runs[ri_type] = next;
        let (px, sign) = match extra {
            1 => (ra, 1),
            _ => (rb, if ra > rb { -1 } else { 1 }),
        };
        Some(self.reconstructed(px, sign * error))
    }

    /// Annex A.4.5.
    fn reconstructed(&self, px: i32, error: i32) -> i32 {
        let step = 2 * self.near + 1;
        let mut rx = px.saturating_add(error.saturating_mul(step));
        if rx < -self.near {
            rx += self.range * step;
        } else if rx > self.maxval + self.near {
            rx -= self.range * step;
        }
        rx.clamp(0, self.maxval)
    }

    /// Annex A.3.3.
    fn quantised(&self, d: i32) -> i32 {
        let [t1, t2, t3] = self.t;
        let size = match d.abs() {
            d if d <= self.near => 0,
            d if d < t1 => 1,
            d if d < t2 => 2,
            d if d < t3 => 3,
            _ => 4,
        };
        size * d.signum()
    }
}

impl Context {
    /// Annex A.6.
    fn updated(mut self, error: i32, near: i32, reset: i32) -> Self {
        self.b += error * (2 * near + 1);
        self.a += error.abs();
        if self.n == reset {
            self.a >>= 1;
            self.b >>= 1;
            self.n >>= 1;
        }
        self.n += 1;
        if self.b <= -self.n {
            self.b = (self.b + self.n).max(1 - self.n);
            self.c = (self.c - 1).max(-128);
        } else if self.b > 0 {
            self.b = (self.b - self.n).min(0);
            self.c = (self.c + 1).min(127);
        }
        self
    }
}

/// Annex A.5.1; the statistics of eight-bit errors need no more than 16.
fn golomb_parameter(n: i32, a: i32) -> Option<u32> {
    (0..=16).find(|&k| (n << k) >= a)
}

/// Annex A.5.2, the other way round.
fn unmapped(value: i32) -> i32 {
    if value & 1 == 0 {
        value / 2
    } else {
        -(value + 1) / 2
    }
}

/// Annex A.7.1: how many of the `left` samples of a line repeat the last one.
fn run_length(bits: &mut Bits<'_>, left: usize, run_index: &mut usize) -> Option<usize> {
    let mut length = 0;
    while bits.bit()? {
        let run = 1 << J[*run_index];
        if run > left - length {
            return Some(left);
        }
        length += run;
        *run_index = (*run_index + 1).min(J.len() - 1);
        if length == left {
            return Some(left);
        }
    }
    length += bits.take(J[*run_index])? as usize;
    // A run that was broken off ended before the line did.
    (length < left).then_some(length)
}

/// Bits, the most significant first; behind a byte of ones only seven count
/// (annex A.1).
struct Bits<'a> {
    data: &'a [u8],
    at: usize,
    held: u32,
    count: u32,
}

impl<'a> Bits<'a> {
    fn new(data: &'a [u8]) -> Self {
        Self {
            data,
            at: 0,
            held: 0,
            count: 0,
        }
    }

    fn bit(&mut self) -> Option<bool> {
        if self.count == 0 {
            let is_stuffed = self.at > 0 && self.data.get(self.at - 1) == Some(&0xFF);
            let byte = *self.data.get(self.at)?;
            // A marker: the scan is over.
            if is_stuffed && byte >= 0x80 {
                return None;
            }
            self.at += 1;
            self.held = u32::from(byte);
            self.count = if is_stuffed { 7 } else { 8 };
        }
        self.count -= 1;
        Some(self.held >> self.count & 1 == 1)
    }

    fn take(&mut self, count: u32) -> Option<u32> {
        let mut value = 0;
        for _ in 0..count {
            value = value << 1 | u32::from(self.bit()?);
        }
        Some(value)
    }

    /// Annex A.5.3, the other way round.
    fn golomb(&mut self, k: u32, limit: u32, qbpp: u32) -> Option<i32> {
        let mut zeros = 0;
        while !self.bit()? {
            zeros += 1;
            if zeros > limit {
                return None;
            }
        }
        let value = if zeros < limit - qbpp - 1 {
            zeros << k | self.take(k)?
        } else {
            self.take(qbpp)? + 1
        };
        i32::try_from(value).ok()
    }

    fn used(&self) -> usize {
        self.at
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The example of annex H.3: 4 x 4, eight bits, lossless.
    #[test]
    fn the_example_of_the_recommendation_is_decoded() {
        const CODED: [u8; 45] = [
            0xFF, 0xD8, 0xFF, 0xF7, 0x00, 0x0B, 0x08, 0x00, 0x04, 0x00, 0x04, 0x01, 0x01, 0x11,
            0x00, 0xFF, 0xDA, 0x00, 0x08, 0x01, 0x01, 0x00, 0x00, 0x00, 0x00, 0xC0, 0x00, 0x00,
            0x6C, 0x80, 0x20, 0x8E, 0x01, 0xC0, 0x00, 0x00, 0x57, 0x40, 0x00, 0x00, 0x6E, 0xE6,
            0x00, 0x00, 0x01,
        ];
        let tail = [
            0xBC, 0x18, 0x00, 0x00, 0x05, 0xD8, 0x00, 0x00, 0x91, 0x60, 0xFF, 0xD9,
        ];
        let image = decode(&[&CODED[..], &tail].concat(), 16).unwrap();
        assert_eq!((image.width, image.height, image.components), (4, 4, 1));
        let expected = [
            0, 0, 90, 74, 68, 50, 43, 205, 64, 145, 145, 145, 100, 145, 145, 145,
        ];
        assert_eq!(image.samples, expected);
    }

    proptest! {
        #[test]
        fn no_scan_makes_it_panic(
            scan in prop::collection::vec(any::<u8>(), 0..400),
            components in prop::sample::select(vec![1_u8, 3]),
            interleave in 0_u8..4,
            near in 0_u8..200,
        ) {
            let mut data = vec![0xFF, 0xD8, 0xFF, 0xF7, 0, 8 + 3 * components, 8, 0, 9, 0, 7, components];
            (0..components).for_each(|component| data.extend([component, 0x11, 0]));
            let in_scan = if interleave == 0 { 1 } else { components };
            data.extend([0xFF, 0xDA, 0, 6 + 2 * in_scan, in_scan]);
            (0..in_scan).for_each(|component| data.extend([component, 0]));
            data.extend([near, interleave, 0]);
            data.extend(&scan);
            if let Some(image) = decode(&data, 63) {
                prop_assert_eq!(image.samples.len(), 63 * usize::from(components));
            }
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let data = [&[0xFF, 0xD8][..], &bytes].concat();
            if let Some(image) = decode(&data, 1 << 12) {
                prop_assert!(image.samples.len() <= 3 << 12);
            }
        }
    }
}
