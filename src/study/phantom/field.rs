//! Smooth Gaussian random fields, the raw material of echotexture, capsule
//! height and probe ripple.
//!
//! A field is white noise on a grid, blurred along each axis by a Gaussian and
//! scaled to unit variance, so that two points at distance `d` along an axis of
//! length `l` have the correlation `exp(-d^2 / (2 l^2))`. The grid wraps
//! around, which keeps the variance the same everywhere.

use rand_chacha::ChaCha8Rng;

use super::rng;

/// One axis of a field's grid, in millimetres.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Axis {
    /// Where the grid begins, mm.
    pub begin: f32,
    /// Where it ends, mm.
    pub end: f32,
    /// Correlation length, mm.
    pub length: f32,
}

impl Axis {
    /// Grid points per correlation length. More would cost time; at 2.2 the
    /// linear interpolation between points loses about 7 % of the variance.
    const POINTS_PER_LENGTH: f32 = 2.2;

    fn step(self) -> f32 {
        self.length / Self::POINTS_PER_LENGTH
    }

    fn points(self) -> usize {
        ((self.end - self.begin) / self.step()).ceil() as usize + 2
    }
}

/// A smooth field over `N` axes: mean 0, variance 1.
#[derive(Clone, Debug)]
pub(crate) struct Field<const N: usize> {
    axes: [Axis; N],
    points: [usize; N],
    /// Row-major, the last axis fastest.
    values: Vec<f32>,
}

impl<const N: usize> Field<N> {
    /// Draws a field.
    pub(crate) fn draw(rng: &mut ChaCha8Rng, axes: [Axis; N]) -> Self {
        let points = axes.map(Axis::points);
        let mut values = rng::normals(rng, points.iter().product());
        // Blurring white noise by a Gaussian of sd s correlates it over s * sqrt(2).
        let kernel = unit_power_kernel(Axis::POINTS_PER_LENGTH / std::f32::consts::SQRT_2);
        let mut stride = 1;
        for axis in (0..N).rev() {
            blur_axis(&mut values, points[axis], stride, &kernel);
            stride *= points[axis];
        }
        Self {
            axes,
            points,
            values,
        }
    }

    /// The field at `at` (mm), interpolated linearly; clamped to the grid.
    pub(crate) fn at(&self, at: [f32; N]) -> f32 {
        let mut base = 0;
        let mut strides = [0; N];
        let mut fractions = [0.0; N];
        let mut stride = 1;
        for axis in (0..N).rev() {
            let last = (self.points[axis] - 2) as f32;
            let position = (at[axis] - self.axes[axis].begin) / self.axes[axis].step();
            let position = position.clamp(0.0, last + 0.999);
            base += position as usize * stride;
            fractions[axis] = position.fract();
            strides[axis] = stride;
            stride *= self.points[axis];
        }
        // The 2^N corners of the cell, each weighted by its closeness.
        (0..1_usize << N)
            .map(|corner| {
                let mut index = base;
                let mut weight = 1.0;
                for axis in 0..N {
                    if corner >> axis & 1 == 1 {
                        index += strides[axis];
                        weight *= fractions[axis];
                    } else {
                        weight *= 1.0 - fractions[axis];
                    }
                }
                weight * self.values[index]
            })
            .sum()
    }
}

/// A sampled Gaussian of `sd` points whose squares sum to 1, so that it keeps
/// the variance of white noise.
fn unit_power_kernel(sd: f32) -> Vec<f32> {
    let reach = (3.0 * sd).ceil() as i32;
    let mut kernel: Vec<f32> = (-reach..=reach)
        .map(|i| (-0.5 * (i as f32 / sd).powi(2)).exp())
        .collect();
    let norm = kernel.iter().map(|k| k * k).sum::<f32>().sqrt();
    for k in &mut kernel {
        *k /= norm;
    }
    kernel
}

/// Convolves every line along one axis with `kernel`, wrapping around.
fn blur_axis(values: &mut [f32], points: usize, stride: usize, kernel: &[f32]) {
    let reach = kernel.len() / 2;
    let mut line = vec![0.0_f32; points + 2 * reach];
    for block in values.chunks_exact_mut(points * stride) {
        for start in 0..stride {
            for (i, value) in line.iter_mut().enumerate() {
                *value = block[(i + points * reach - reach) % points * stride + start];
            }
            for i in 0..points {
                block[i * stride + start] = line[i..].iter().zip(kernel).map(|(v, k)| v * k).sum();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::rng::{Purpose, stream};
    use super::*;

    #[test]
    fn a_field_has_unit_variance_and_forgets_over_its_length() {
        let axis = Axis {
            begin: 0.0,
            end: 800.0,
            length: 2.0,
        };
        let mut rng = stream(3, 1, 0, Purpose::Tissue);
        let field = Field::draw(&mut rng, [axis, axis]);
        let (mut power, mut near, mut far, mut count) = (0.0, 0.0, 0.0, 0.0);
        // On grid points, so that interpolation takes no variance away.
        let step = axis.step();
        for i in 1..800 {
            for j in 1..800 {
                let [x, y] = [i as f32 * step, j as f32 * step];
                let here = field.at([x, y]);
                power += here * here;
                near += here * field.at([x, y + 2.0]);
                far += here * field.at([x + 12.0, y]);
                count += 1.0;
            }
        }
        assert!((power / count - 1.0_f32).abs() < 0.05, "{}", power / count);
        let expected = (-0.5_f32).exp();
        assert!((near / count - expected).abs() < 0.06, "{}", near / count);
        assert!((far / count).abs() < 0.05, "{}", far / count);
    }
}
