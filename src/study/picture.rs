//! A finished picture, as a scanner would put it on its screen.

/// How a pixel is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pixels {
    /// One byte: luma, full range.
    Grey,
    /// Three bytes: red, green, blue.
    Rgb,
}

/// One picture.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Picture {
    /// Columns.
    pub width: usize,
    /// Rows.
    pub height: usize,
    /// How a pixel is stored.
    pub format: Pixels,
    /// `[height, width]`, or `[height, width, 3]` in colour, without padding.
    pub pixels: Vec<u8>,
}

impl Picture {
    /// A black grey picture.
    pub(crate) fn grey(width: usize, height: usize) -> Self {
        Self {
            width,
            height,
            format: Pixels::Grey,
            pixels: vec![0; width * height],
        }
    }

    /// The same picture with three bytes a pixel.
    pub(crate) fn into_rgb(self) -> Self {
        match self.format {
            Pixels::Rgb => self,
            Pixels::Grey => Self {
                format: Pixels::Rgb,
                pixels: self.pixels.iter().flat_map(|&grey| [grey; 3]).collect(),
                ..self
            },
        }
    }

    /// Sets the grey pixel, if it lies inside.
    pub(crate) fn set(&mut self, column: usize, row: usize, level: u8) {
        debug_assert_eq!(self.format, Pixels::Grey);
        if column < self.width && row < self.height {
            self.pixels[row * self.width + column] = level;
        }
    }
}
