//! `axon policy evaluate`, `axon service evaluate`: lines in, lines out.

use std::io::{self, BufRead, Read, Write};

use crate::failure::Failure;

/// Bytes of one question: some ten thousand pods.
const QUESTION_BYTES_MAX: u64 = 64 << 20;

/// Who knows the answers: to a question, and to one that cannot be read.
#[derive(Clone, Copy)]
pub(crate) struct Evaluator {
    answer: fn(&[u8]) -> String,
    refusal: fn(&str) -> String,
}

/// What becomes of policies and of connections between workloads.
pub(crate) const POLICY: Evaluator = Evaluator {
    answer: axon_evaluate::answer,
    refusal: axon_evaluate::refusal,
};
/// What becomes of connections to services.
pub(crate) const SERVICE: Evaluator = Evaluator {
    answer: axon_evaluate::service_answer,
    refusal: axon_evaluate::service_refusal,
};

/// Answers every line, one by one: who asks may wait for each answer.
pub(crate) fn run(
    evaluator: Evaluator,
    mut questions: impl BufRead,
    mut answers: impl Write,
) -> Result<(), Failure> {
    let mut line = Vec::new();
    loop {
        line.clear();
        let read = |e: io::Error| Failure::new(format!("standard input: {e}"));
        let mut bounded = questions.by_ref().take(QUESTION_BYTES_MAX);
        if bounded.read_until(b'\n', &mut line).map_err(read)? == 0 {
            return Ok(());
        }
        let answer = if line.ends_with(b"\n") || (line.len() as u64) < QUESTION_BYTES_MAX {
            (evaluator.answer)(&line)
        } else {
            questions.skip_until(b'\n').map_err(read)?;
            (evaluator.refusal)(&format!(
                "the line has more than {QUESTION_BYTES_MAX} bytes"
            ))
        };
        let written = writeln!(answers, "{answer}").and_then(|()| answers.flush());
        match written {
            Ok(()) => {}
            // Nobody reads any more.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(()),
            Err(error) => return Err(Failure::new(format!("standard output: {error}"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Evaluator, POLICY, SERVICE};

    /// Asks line by line; of five the second, third and fourth are wrong.
    fn ask(evaluator: Evaluator, questions: &[u8], good: &str, wrong: &str) {
        let mut answers = Vec::new();
        super::run(evaluator, questions, &mut answers).expect("answers");
        let answers = String::from_utf8(answers).expect("text");
        let lines: Vec<&str> = answers.lines().collect();
        assert_eq!(lines.len(), 5, "{answers}");
        assert_eq!((lines[0], lines[4]), (good, good));
        assert!(lines[2].contains(wrong), "{}", lines[2]);
        for line in &lines[1..4] {
            assert!(line.contains("error"), "{line}");
        }
    }

    #[test]
    fn every_line_has_an_answer() {
        let questions = b"{}\n\n{\"cluster\": 7}\n\xff\n{}";
        ask(
            POLICY,
            questions,
            r#"{"policies":[],"results":[]}"#,
            "cluster",
        );
        let questions = b"{}\n\n{\"outside\": 7}\n\xff\n{}";
        ask(SERVICE, questions, r#"{"states":[]}"#, "outside");
    }
}
