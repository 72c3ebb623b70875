//! What the driver makes of [`Tiles`] for the tensor memory accelerator.

use std::ffi::c_void;
use std::mem::MaybeUninit;

use cudarc::driver::result::DriverError;
use cudarc::driver::sys;

use crate::engine::cuda::launch::{TensorMap, Tiles};

/// The driver's own form of a map: values of 16 bits, rows of 128 bytes swizzled, zeros
/// for what lies outside.
pub(super) fn encode(tiles: &Tiles) -> Result<TensorMap, DriverError> {
    use sys::CUtensorMapDataType_enum::CU_TENSOR_MAP_DATA_TYPE_UINT16 as TYPE;
    use sys::CUtensorMapFloatOOBfill_enum::CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE as ZEROS;
    use sys::CUtensorMapInterleave_enum::CU_TENSOR_MAP_INTERLEAVE_NONE as APART;
    use sys::CUtensorMapL2promotion_enum::CU_TENSOR_MAP_L2_PROMOTION_L2_256B as PROMOTION;
    use sys::CUtensorMapSwizzle_enum::CU_TENSOR_MAP_SWIZZLE_128B as SWIZZLE;
    /// Values of a row.
    const ROW: u32 = 64;
    let long = |value: usize| value as u64;
    let mut map = MaybeUninit::<sys::CUtensorMap>::uninit();
    // SAFETY: the arrays have as many numbers as the rank asks for, which is one fewer of
    // pitches and three of corners; the driver writes the map, or refuses.
    let (status, map) = unsafe {
        let status = match *tiles {
            Tiles::Matrix {
                address,
                extent,
                pitch,
                count,
            } => sys::cuTensorMapEncodeTiled(
                map.as_mut_ptr(),
                TYPE,
                2,
                address as *mut c_void,
                extent.map(long).as_ptr(),
                [long(pitch)].as_ptr(),
                [ROW, count as u32].as_ptr(),
                [1, 1].as_ptr(),
                APART,
                SWIZZLE,
                PROMOTION,
                ZEROS,
            ),
            Tiles::Boxes {
                address,
                extent,
                pitch,
                columns,
                rows,
            } => sys::cuTensorMapEncodeTiled(
                map.as_mut_ptr(),
                TYPE,
                5,
                address as *mut c_void,
                extent.map(long).as_ptr(),
                pitch.map(long).as_ptr(),
                [ROW, columns as u32, rows as u32, 1, 1].as_ptr(),
                [1; 5].as_ptr(),
                APART,
                SWIZZLE,
                PROMOTION,
                ZEROS,
            ),
            Tiles::Positions {
                address,
                extent,
                pitch,
                count,
                stride: [along_w, along_h, along_t],
                lower,
                upper,
            } => sys::cuTensorMapEncodeIm2col(
                map.as_mut_ptr(),
                TYPE,
                5,
                address as *mut c_void,
                extent.map(long).as_ptr(),
                pitch.map(long).as_ptr(),
                lower.as_ptr(),
                upper.as_ptr(),
                ROW,
                count as u32,
                [1, along_w, along_h, along_t, 1]
                    .map(|axis| axis as u32)
                    .as_ptr(),
                APART,
                SWIZZLE,
                PROMOTION,
                ZEROS,
            ),
        };
        (status, map)
    };
    status.result()?;
    // SAFETY: the driver has said that it wrote it.
    Ok(TensorMap(unsafe { map.assume_init() }.opaque))
}
