//! `templates`: publishes to single users, by a template and with a payload of as many bytes, in turn on
//! one gateway: CPU per publish of each, and their ratio.

use super::unicast::Drive;
use super::{LATE, check_no_strays, repeat};
use crate::caller::{PAYLOAD_BYTES_MIN, Template, VARIABLE_BYTES};
use crate::cli::TemplatesArgs;
use crate::fault::{Outcome, failed};
use crate::figures::Figure;
use crate::gateway::Gateway;
use crate::report::{Group, Report};
use crate::stop::Stop;
use crate::subscriber::Transport;
use crate::{http, limits};

pub(crate) fn run(args: &TemplatesArgs, stop: &Stop) -> Outcome<Report> {
    limits::check(args.connections)?;
    if args.common.stand_in {
        return failed("the stand-in has no templates".to_owned());
    }
    if PAYLOAD_BYTES_MIN + args.variables as usize * VARIABLE_BYTES > args.payload_bytes as usize {
        return failed("--payload-bytes has no room for so many --variables".to_owned());
    }
    let figures = repeat(args.rounds, || round(args, stop))?;
    Ok(Report {
        scenario: "templates",
        title: format!(
            "Templates: {} users, {} callers, {} variables, payload {} B, plain and by a template in turn",
            args.connections, args.callers, args.variables + 1, args.payload_bytes,
        ),
        groups: vec![Group { name: "templates".to_owned(), figures }],
        notes: vec![
            "Every notification arrived exactly once. The ratio is taken within a round; a request by \
             the template is shorter than a plain one where its text is longer than its variables."
                .to_owned(),
        ],
    })
}

fn round(args: &TemplatesArgs, stop: &Stop) -> Outcome<Vec<Figure>> {
    let common = &args.common;
    let gateway = Gateway::start(common, common.shards, stop)?;
    let template = Template::new(args.payload_bytes as usize, args.variables as usize);
    let (address, key) = (gateway.address, &gateway.api_key);
    let (status, answer) = http::post(address, "/api/v1/templates", key, &template.definition)?;
    if status != 201 {
        let answer = String::from_utf8_lossy(&answer);
        return failed(format!("the template was answered {status}: {answer}"));
    }
    let mut swarm = gateway.swarm(common, Transport::Ws, None, stop)?;
    swarm.connect_all(0, args.connections, common.at_once)?;
    swarm.add_callers(args.callers as usize)?;
    let api = gateway.api(args.payload_bytes as usize);
    let request_bytes = [api.to_user(0, 0).len(), api.to_user_by(&template, 0, 0).len()];
    let mut drive = Drive {
        swarm: &mut swarm,
        api,
        template: None,
        users: args.connections,
        callers: args.callers,
        batch_size: 1,
        replies: false,
        next_seq: 0,
    };
    let kinds = [None, Some(template)]
        .map(|template| move |drive: &mut Drive<'_>| drive.template.clone_from(&template));
    let [plain, rendered] = drive.compare(gateway.pid(), args.seconds, kinds)?;
    swarm.run_for(LATE)?;
    check_no_strays(&mut swarm)?;
    drop(swarm);
    gateway.end()?;
    let [plain_bytes, rendered_bytes] = request_bytes.map(|bytes| bytes as f64);
    Ok(vec![
        Figure::one("us_per_plain", "Gateway, CPU per plain publish", "µs", plain),
        Figure::one("us_per_rendered", "Gateway, CPU per publish by the template", "µs", rendered),
        Figure::one("ratio", "By the template beside plain", "×", rendered / plain),
        Figure::one("plain_request_bytes", "Plain request", "B", plain_bytes),
        Figure::one("rendered_request_bytes", "Request by the template", "B", rendered_bytes),
    ])
}
