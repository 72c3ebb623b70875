//! From a decoded picture to a model's pixels: luma, crop, range, resize.
//!
//! The luma plane of a decoded picture is used as it lies in memory, so colour
//! is never converted. What this file does not do: decode, or find the crop.
//! Called by the reader, once per frame.
//!
//! ```text
//! decoder's luma plane          scratch                  frame
//! ┌──────────────┬───┐  copy,   ┌────────┐  antialiased  ┌─────┐
//! │   ┌ crop ┐   │pad│  expand  │  crop  │  bilinear     │ H×W │
//! │   └──────┘   │   │ ───────▶ └────────┘ ────────────▶ └─────┘
//! └──────────────┴───┘
//!  stride ≥ width
//! ```

use std::sync::Arc;

use fast_image_resize::images::{Image, ImageRef};
use fast_image_resize::{FilterType, PixelType, ResizeAlg, ResizeOptions, Resizer};

use crate::domain::{Crop, FrameSize};

/// How luma is coded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Range {
    /// Black is 0 and white 255.
    Full,
    /// Black is 16 and white 235, as in most H.264 recordings.
    Limited,
}

/// The luma plane of a decoded picture, borrowed from the decoder.
#[derive(Clone, Copy, Debug)]
pub(super) struct Luma<'a> {
    /// Rows of `stride` bytes, of which the first `size.width` are picture.
    pub(super) data: &'a [u8],
    /// Bytes from one row to the next.
    pub(super) stride: usize,
    /// The picture within.
    pub(super) size: FrameSize,
    /// How it is coded.
    pub(super) range: Range,
}

/// Whether `crop` is a part of a picture of `size` with at least one pixel.
pub(super) fn fits(crop: Crop, size: FrameSize) -> bool {
    let ends_within = |from: u32, length: u32, limit: usize| {
        length > 0 && u64::from(from) + u64::from(length) <= limit as u64
    };
    ends_within(crop.x, crop.width, size.width) && ends_within(crop.y, crop.height, size.height)
}

/// Makes pictures of one size. Keeps its buffers from frame to frame.
pub(super) struct Preprocessor {
    size: FrameSize,
    resizer: Resizer,
    options: ResizeOptions,
    scratch: Vec<u8>,
}

impl Preprocessor {
    pub(super) fn new(size: FrameSize) -> Self {
        Self {
            size,
            resizer: Resizer::new(),
            // The filter widens with the reduction, as torchvision's and
            // Pillow's antialiased bilinear do: speckle must not alias.
            options: ResizeOptions::new().resize_alg(ResizeAlg::Convolution(FilterType::Bilinear)),
            scratch: Vec::new(),
        }
    }

    /// The part `crop` of `luma` at this preprocessor's size and full range,
    /// black where `mask` (`[crop.height, crop.width]`) is 0, or `None` if crop
    /// or plane are not what they claim to be.
    pub(super) fn run(
        &mut self,
        luma: Luma<'_>,
        crop: Crop,
        mask: Option<&[u8]>,
    ) -> Option<Arc<[u8]>> {
        if !fits(crop, luma.size) || luma.stride < luma.size.width {
            return None;
        }
        self.copy_crop(luma, crop)?;
        if let Some(mask) = mask {
            let pixels = self.scratch.iter_mut().zip(mask);
            pixels.for_each(|(pixel, mask)| *pixel &= mask);
        }
        // One allocation: `repeat_n` knows its length.
        let mut pixels: Arc<[u8]> = std::iter::repeat_n(0, self.size.area()).collect();
        let target = Arc::get_mut(&mut pixels)?;
        let source = ImageRef::new(crop.width, crop.height, &self.scratch, PixelType::U8).ok()?;
        let (width, height) = (self.size.width as u32, self.size.height as u32);
        let mut target = Image::from_slice_u8(width, height, target, PixelType::U8).ok()?;
        self.resizer
            .resize(&source, &mut target, &self.options)
            .ok()?;
        Some(pixels)
    }

    fn copy_crop(&mut self, luma: Luma<'_>, crop: Crop) -> Option<()> {
        let (x, y) = (crop.x as usize, crop.y as usize);
        let (width, height) = (crop.width as usize, crop.height as usize);
        self.scratch.clear();
        self.scratch.reserve(width * height);
        for row in y..y + height {
            let start = row * luma.stride + x;
            let row = luma.data.get(start..start + width)?;
            match luma.range {
                Range::Full => self.scratch.extend_from_slice(row),
                Range::Limited => self.scratch.extend(row.iter().map(|&coded| expand(coded))),
            }
        }
        Some(())
    }
}

/// Limited to full range, rounded to the nearest. Arithmetic rather than a
/// table, because the compiler turns it into vector instructions.
pub(super) const fn expand(coded: u8) -> u8 {
    let above_black = coded.saturating_sub(16);
    let above_black = if above_black > 219 { 219 } else { above_black } as u16;
    ((above_black * 255 + 109) / 219) as u8
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn whole(size: FrameSize) -> Crop {
        Crop {
            x: 0,
            y: 0,
            width: size.width as u32,
            height: size.height as u32,
        }
    }

    fn full(data: &[u8], stride: usize, height: usize, width: usize) -> Luma<'_> {
        Luma {
            data,
            stride,
            size: FrameSize { height, width },
            range: Range::Full,
        }
    }

    /// Antialiased bilinear by its definition: every output pixel is the mean
    /// of the input under a triangle as wide as the reduction.
    fn resize_by_definition(
        input: &[u8],
        (height, width): (usize, usize),
        (to_height, to_width): (usize, usize),
    ) -> Vec<f64> {
        let weights = |from: usize, to: usize, at: usize| -> Vec<f64> {
            let scale = from as f64 / to as f64;
            let reach = scale.max(1.0);
            let centre = (at as f64 + 0.5) * scale;
            let raw: Vec<f64> = (0..from)
                .map(|i| (1.0 - ((i as f64 + 0.5 - centre) / reach).abs()).max(0.0))
                .collect();
            let sum: f64 = raw.iter().sum();
            raw.into_iter().map(|w| w / sum).collect()
        };
        let mut output = Vec::new();
        for row in 0..to_height {
            let down = weights(height, to_height, row);
            for column in 0..to_width {
                let across = weights(width, to_width, column);
                let mut value = 0.0;
                for (y, wy) in down.iter().enumerate() {
                    for (x, wx) in across.iter().enumerate() {
                        value += wy * wx * f64::from(input[y * width + x]);
                    }
                }
                output.push(value);
            }
        }
        output
    }

    #[test]
    fn limited_range_is_stretched_to_full_range() {
        for coded in 0..=255_u8 {
            let exact = (f64::from(coded) - 16.0) * 255.0 / 219.0;
            let expected = exact.round().clamp(0.0, 255.0);
            assert!(
                (f64::from(expand(coded)) - expected).abs() < f64::EPSILON,
                "{coded}"
            );
        }
    }

    #[test]
    fn padding_between_rows_never_reaches_the_picture() {
        let (height, width, stride) = (6, 5, 8);
        let mut plane = vec![255; height * stride];
        for row in plane.chunks_mut(stride) {
            row[..width].fill(7);
        }
        let size = FrameSize {
            height: 3,
            width: 3,
        };
        let picture = full(&plane, stride, height, width);
        let pixels = Preprocessor::new(size)
            .run(picture, whole(picture.size), None)
            .unwrap();
        assert_eq!(&*pixels, [7; 9]);
    }

    #[test]
    fn the_last_row_needs_no_padding_behind_it() {
        let plane = [1, 2, 99, 3, 4];
        let size = FrameSize {
            height: 2,
            width: 2,
        };
        let pixels = Preprocessor::new(size)
            .run(full(&plane, 3, 2, 2), whole(size), None)
            .unwrap();
        assert_eq!(&*pixels, [1, 2, 3, 4]);
    }

    #[test]
    fn a_crop_of_the_model_s_size_is_copied_to_the_pixel() {
        let plane: Vec<u8> = (0..48).collect();
        let crop = Crop {
            x: 2,
            y: 1,
            width: 3,
            height: 2,
        };
        let size = FrameSize {
            height: 2,
            width: 3,
        };
        let pixels = Preprocessor::new(size)
            .run(full(&plane, 8, 6, 8), crop, None)
            .unwrap();
        assert_eq!(&*pixels, [10, 11, 12, 18, 19, 20]);
    }

    #[test]
    fn a_crop_outside_the_picture_is_refused() {
        let size = FrameSize {
            height: 4,
            width: 4,
        };
        let crop = |x, y, width, height| Crop {
            x,
            y,
            width,
            height,
        };
        for outside in [
            crop(1, 0, 4, 4),
            crop(0, 1, 4, 4),
            crop(0, 0, 0, 4),
            crop(0, 0, 4, 0),
            crop(u32::MAX, 0, u32::MAX, 1),
        ] {
            assert!(!fits(outside, size), "{outside:?}");
            let plane = [0; 16];
            assert!(
                Preprocessor::new(size)
                    .run(full(&plane, 4, 4, 4), outside, None)
                    .is_none()
            );
        }
        assert!(fits(crop(3, 3, 1, 1), size));
    }

    #[test]
    fn a_plane_shorter_than_its_picture_is_refused() {
        let size = FrameSize {
            height: 4,
            width: 4,
        };
        assert!(
            Preprocessor::new(size)
                .run(full(&[0; 15], 4, 4, 4), whole(size), None)
                .is_none()
        );
        assert!(
            Preprocessor::new(size)
                .run(full(&[0; 16], 3, 4, 4), whole(size), None)
                .is_none()
        );
    }

    proptest! {
        #[test]
        fn resizing_agrees_with_its_definition(
            (height, width) in (2_usize..40, 2_usize..40),
            (to_height, to_width) in (1_usize..20, 1_usize..20),
            seed in any::<u64>(),
        ) {
            let mut state = seed | 1;
            let input: Vec<u8> = (0..height * width)
                .map(|_| {
                    state ^= state << 13;
                    state ^= state >> 7;
                    state ^= state << 17;
                    (state >> 32) as u8
                })
                .collect();
            let size = FrameSize { height: to_height, width: to_width };
            let picture = full(&input, width, height, width);
            let pixels = Preprocessor::new(size).run(picture, whole(picture.size), None).unwrap();
            let expected = resize_by_definition(&input, (height, width), (to_height, to_width));
            for (got, expected) in pixels.iter().zip(expected) {
                // Two passes, each rounded to eight bits.
                prop_assert!((f64::from(*got) - expected).abs() <= 1.1, "{got} {expected}");
            }
        }
    }
}
