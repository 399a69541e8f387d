//! The latencies as a picture: a line for each operation of each phase, by percentile.

use plotters::prelude::*;

use super::run::Measured;

const SIZE: (u32, u32) = (1000, 560);
/// Told apart also by those who do not see all colours (Okabe and Ito).
const COLOURS: [RGBColor; 7] = [
    RGBColor(0x00, 0x72, 0xb2),
    RGBColor(0xd5, 0x5e, 0x00),
    RGBColor(0x00, 0x9e, 0x73),
    RGBColor(0xcc, 0x79, 0xa7),
    RGBColor(0xe6, 0x9f, 0x00),
    RGBColor(0x56, 0xb4, 0xe9),
    RGBColor(0x00, 0x00, 0x00),
];
/// Points of a line for each factor of ten on the horizontal axis.
const POINTS: u32 = 20;
/// One in so many operations is the rarest that is drawn.
const RARITY_MAX: f64 = 1e5;

type Failure = DrawingAreaErrorKind<std::io::Error>;

/// A line of the picture.
struct Line {
    name: String,
    /// One in so many operations took at least this long, in microseconds.
    points: Vec<(f64, f64)>,
}

/// Draws the picture, as SVG.
pub(crate) fn svg(measured: &[Measured]) -> Result<String, String> {
    let mut text = String::new();
    draw(&mut text, &lines(measured)).map_err(|error| error.to_string())?;
    Ok(text)
}

fn lines(measured: &[Measured]) -> Vec<Line> {
    let mut lines = Vec::new();
    for measured in measured {
        for (operation, latency) in measured.stats.latencies() {
            let rarities = (0..).map(|point| 10_f64.powf(f64::from(point) / f64::from(POINTS)));
            // Beyond one in `count` there is only the maximum again.
            let shown = rarities.take_while(|rarity| *rarity <= RARITY_MAX.min(latency.count() as f64));
            let points = shown.map(|rarity| (rarity, latency.quantile_us(1.0 - 1.0 / rarity).max(0.1)));
            lines.push(Line {
                name: format!("{} {}", measured.phase, operation.name()),
                points: points.collect(),
            });
        }
    }
    lines
}

fn draw(text: &mut String, lines: &[Line]) -> Result<(), Failure> {
    let all = || lines.iter().flat_map(|line| &line.points);
    let least = all().map(|(_, us)| *us).fold(1e6, f64::min) * 0.8;
    let most = all().map(|(_, us)| *us).fold(1.0, f64::max) * 1.25;
    let rarest = all().map(|(rarity, _)| *rarity).fold(10.0, f64::max);

    let root = SVGBackend::with_string(text, SIZE).into_drawing_area();
    root.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&root)
        .caption("dyn bench: latency by percentile", ("sans-serif", 20))
        .margin(16)
        // The last label stands half outside.
        .margin_right(40)
        .x_label_area_size(44)
        .y_label_area_size(76)
        .build_cartesian_2d((1.0..rarest).log_scale(), (least..most.max(least * 10.0)).log_scale())?;
    chart
        .configure_mesh()
        .x_desc("share of the operations that were faster")
        .y_desc("latency")
        .x_label_formatter(&|rarity| percentile(*rarity))
        .y_label_formatter(&|us| show(*us))
        .light_line_style(TRANSPARENT)
        .bold_line_style(BLACK.mix(0.12))
        .label_style(("sans-serif", 14))
        .draw()?;
    for (line, colour) in lines.iter().zip(COLOURS.iter().cycle()) {
        chart
            .draw_series(LineSeries::new(line.points.iter().copied(), colour.stroke_width(2)))?
            .label(&line.name)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 20, y)], colour.stroke_width(2)));
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperLeft)
        .background_style(WHITE.mix(0.9))
        .border_style(BLACK.mix(0.3))
        .label_font(("sans-serif", 14))
        .draw()?;
    root.present()
}

/// 1 in 1000 is 99.9 %.
fn percentile(rarity: f64) -> String {
    let percent = 100.0 * (1.0 - 1.0 / rarity);
    let digits = (rarity.log10().round() as usize).saturating_sub(2);
    format!("{percent:.digits$} %")
}

fn show(us: f64) -> String {
    match us {
        ..1000.0 => format!("{us:.0} us"),
        ..1e6 => format!("{:.0} ms", us / 1e3),
        _ => format!("{:.0} s", us / 1e6),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::bench::stats::{Operation, Stats};
    use crate::bench::workload::Phase;

    fn measured(operations: u64) -> Measured {
        let mut stats = Stats::default();
        for micros in 1..=operations {
            stats.done(Operation::Put, Duration::from_micros(micros));
        }
        Measured {
            phase: Phase::Load,
            elapsed: Duration::from_secs(1),
            stats,
            client_cpu: None,
            client_rss_bytes: None,
            nodes_cpu: None,
            nodes_rss_bytes: None,
            disk_bytes: None,
            user_bytes: None,
        }
    }

    #[test]
    fn a_line_goes_as_far_as_there_are_operations() {
        let lines = lines(&[measured(1000)]);
        let points = &lines[0].points;
        assert_eq!(lines[0].name, "load put");
        assert_eq!(points.len(), 3 * POINTS as usize + 1);
        let (rarity, us) = points[2 * POINTS as usize];
        assert!((rarity - 100.0).abs() < 1e-6 && (us - 990.0).abs() < 2.0, "{rarity} {us}");
        assert!(points.is_sorted_by(|a, b| a.1 <= b.1));
    }

    #[test]
    fn labels() {
        let shown = [1.0, 10.0, 100.0, 1000.0, 10_000.0].map(percentile);
        assert_eq!(shown, ["0 %", "90 %", "99 %", "99.9 %", "99.99 %"]);
        assert_eq!([10.0, 1000.0, 2e6].map(show), ["10 us", "1 ms", "2 s"]);
    }

    #[test]
    fn any_result_can_be_drawn() {
        for operations in [0, 1, 2, 1000] {
            let svg = svg(&[measured(operations)]).unwrap();
            assert!(svg.starts_with("<svg") && svg.ends_with("</svg>\n"), "{operations}");
            assert_eq!(svg.contains("load put"), operations > 0);
        }
        assert!(svg(&[]).is_ok());
    }
}
