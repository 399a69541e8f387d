//! The picture.

use std::error::Error;
use std::path::Path;

use plotters::prelude::*;

use crate::measure::{Measurement, Strategy};

/// With colour and width. The curves of strategies 1 and 2 coincide: the wide one is drawn below the narrow one.
const STRATEGIES: [(Strategy, RGBColor, u32); 3] = [
    (Strategy::RandomPartitions, RGBColor(0x9c, 0xc4, 0xe8), 8),
    (Strategy::Random, RGBColor(0xd5, 0x5e, 0x00), 2),
    (Strategy::Equal, RGBColor(0x00, 0x7f, 0x5f), 2),
];

/// Two charts side by side: uniform popularity with the expected points, and skewed popularity.
pub(crate) fn svg(path: &Path, measurements: &[Measurement]) -> Result<(), Box<dyn Error>> {
    let root = SVGBackend::new(path, (1200, 560)).into_drawing_area();
    root.fill(&WHITE)?;
    let root = root.titled("Load balancing efficiency, S = 30, N = 3", ("sans-serif", 24))?;
    let (left, right) = root.split_horizontally(600);
    chart(&left, "Uniform popularity (crosses: expected)", measurements, |m| m.uniform, true)?;
    chart(&right, "Skewed popularity (Zipf 0.8, 100,000 keys)", measurements, |m| m.skewed, false)?;
    root.present()?;
    Ok(())
}

fn chart(
    area: &DrawingArea<SVGBackend<'_>, plotters::coord::Shift>,
    caption: &str,
    measurements: &[Measurement],
    efficiency: impl Fn(&Measurement) -> f64,
    with_reference: bool,
) -> Result<(), Box<dyn Error>> {
    let mut chart = ChartBuilder::on(area)
        .caption(caption, ("sans-serif", 18))
        .margin(16)
        .x_label_area_size(44)
        .y_label_area_size(52)
        .build_cartesian_2d((20.0..20_000.0_f64).log_scale(), 0.4..1.0_f64)?;
    chart
        .configure_mesh()
        .x_desc("metadata at each node (entries)")
        .y_desc("mean load / greatest load")
        .x_label_formatter(&|x| format!("{x:.0}"))
        .y_label_formatter(&|y| format!("{y:.1}"))
        .y_labels(7)
        .light_line_style(TRANSPARENT)
        .bold_line_style(BLACK.mix(0.12))
        .label_style(("sans-serif", 14))
        .draw()?;
    for (strategy, color, width) in STRATEGIES {
        let line: Vec<(f64, f64)> = measurements
            .iter()
            .filter(|m| m.strategy == strategy)
            .map(|m| (m.metadata as f64, efficiency(m)))
            .collect();
        chart
            .draw_series(LineSeries::new(line.clone(), color.stroke_width(width)))?
            .label(strategy.to_string())
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 20, y)], color.stroke_width(width)));
        chart.draw_series(
            line.into_iter().map(|point| Circle::new(point, width.div_ceil(2) + 2, color.filled())),
        )?;
    }
    if with_reference {
        let points = measurements.iter().filter_map(|m| Some((m.metadata as f64, m.reference()?)));
        chart.draw_series(points.map(|point| Cross::new(point, 6, BLACK.stroke_width(2))))?;
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::LowerRight)
        .background_style(WHITE.mix(0.9))
        .border_style(BLACK.mix(0.3))
        .label_font(("sans-serif", 14))
        .draw()?;
    Ok(())
}
