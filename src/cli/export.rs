//! `hepaflow results export`: results as a file for other programs.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context;
use clap::{Args, ValueEnum};
use parquet::basic::{LogicalType, Repetition, Type as PhysicalType};
use parquet::data_type::{ByteArray, ByteArrayType, DataType, DoubleType, Int64Type};
use parquet::file::properties::WriterProperties;
use parquet::file::writer::{SerializedFileWriter, SerializedRowGroupWriter};
use parquet::schema::types::Type;
use serde_json::Value;

use super::BadInput;
use super::results::{Place, Rows, What, exact};
use crate::store::replace_file;

/// Writes results to a file: patients' answers, or the clip predictions behind
/// them.
///
/// The file is complete when it appears under its name; an export that fails
/// leaves what was there before.
#[derive(Args)]
pub(super) struct ExportArgs {
    /// One row a patient and model, or one row a clip.
    #[arg(default_value = "patients")]
    what: What,
    #[command(flatten)]
    place: Place,
    /// How to write them.
    #[arg(long)]
    format: Format,
    /// The file to write.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Format {
    /// Apache Parquet, uncompressed; probabilities by class are a JSON column.
    Parquet,
    /// One JSON object a line.
    Jsonl,
    /// Comma-separated values with a header line.
    Csv,
}

pub(super) fn run(args: &ExportArgs) -> anyhow::Result<()> {
    let rows = args.what.rows(&args.place.open()?)?;
    replace_file(&args.out, |file| match args.format {
        Format::Parquet => parquet(&rows, file),
        Format::Jsonl => lines(&rows, file),
        Format::Csv => Ok(file.write_all(rows.to_csv()?.as_bytes())?),
    })
    .with_context(|| format!("cannot write {}", args.out.display()))
    .map_err(BadInput::new)?;
    eprintln!("{} rows in {}", rows.rows.len(), args.out.display());
    Ok(())
}

fn lines(rows: &Rows, file: &mut impl Write) -> anyhow::Result<()> {
    for object in rows.objects() {
        serde_json::to_writer(&mut *file, &object)?;
        file.write_all(b"\n")?;
    }
    Ok(())
}

/// What a column holds, so that a table without rows has the same columns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Text,
    Json,
    Whole,
    Real,
}

fn kind_of(column: &str) -> Kind {
    match column {
        "clips" | "left_out" | "first_frame" | "last_frame" | "gaps_before" => Kind::Whole,
        "p_f2_or_more" | "p_f3_or_more" | "p_f4" | "begin_seconds" | "end_seconds" | "weight"
        | "accuracy" | "precision" | "recall" | "f1" | "auc" | "fib4" | "apri" => Kind::Real,
        "probabilities" => Kind::Json,
        _ => Kind::Text,
    }
}

/// One row group; every column may be empty in a row.
fn parquet(rows: &Rows, file: &mut BufWriter<&File>) -> anyhow::Result<()> {
    let fields = rows.columns.iter().map(|&name| {
        let (physical, logical) = match kind_of(name) {
            Kind::Text => (PhysicalType::BYTE_ARRAY, Some(LogicalType::String)),
            Kind::Json => (PhysicalType::BYTE_ARRAY, Some(LogicalType::Json)),
            Kind::Whole => (PhysicalType::INT64, None),
            Kind::Real => (PhysicalType::DOUBLE, None),
        };
        let field = Type::primitive_type_builder(name, physical)
            .with_repetition(Repetition::OPTIONAL)
            .with_logical_type(logical);
        field.build().map(Arc::new)
    });
    let schema = Type::group_type_builder("results")
        .with_fields(fields.collect::<Result<_, _>>()?)
        .build()?;
    let properties = WriterProperties::builder()
        .set_created_by(concat!("hepaflow ", env!("CARGO_PKG_VERSION")).to_owned());
    let mut writer =
        SerializedFileWriter::new(file, Arc::new(schema), Arc::new(properties.build()))?;
    let mut group = writer.next_row_group()?;
    for (position, name) in rows.columns.iter().enumerate() {
        let values = rows.rows.iter().filter_map(|row| row.get(position));
        let bytes =
            |value: &Value| (!value.is_null()).then(|| ByteArray::from(exact(value).into_bytes()));
        match kind_of(name) {
            Kind::Text | Kind::Json => {
                column::<ByteArrayType, _>(&mut group, values.map(bytes).collect())?;
            }
            Kind::Whole => column::<Int64Type, _>(&mut group, values.map(Value::as_i64).collect())?,
            Kind::Real => column::<DoubleType, _>(&mut group, values.map(Value::as_f64).collect())?,
        }
    }
    group.close()?;
    writer.close()?;
    Ok(())
}

fn column<T: DataType, W: Write + Send>(
    group: &mut SerializedRowGroupWriter<'_, W>,
    values: Vec<Option<T::T>>,
) -> anyhow::Result<()> {
    let Some(mut writer) = group.next_column()? else {
        return Ok(());
    };
    // A definition level of 1 says that there is a value.
    let levels: Vec<_> = values
        .iter()
        .map(|value| i16::from(value.is_some()))
        .collect();
    let values: Vec<_> = values.into_iter().flatten().collect();
    writer
        .typed::<T>()
        .write_batch(&values, Some(&levels), None)?;
    writer.close()?;
    Ok(())
}
