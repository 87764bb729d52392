//! `axon policy evaluate`.

use std::io::{self, BufRead, Read, Write};

use crate::failure::Failure;

/// Bytes of one question: some ten thousand pods.
const QUESTION_BYTES_MAX: u64 = 64 << 20;

/// Answers every line, one by one: who asks may wait for each answer.
pub(crate) fn run(mut questions: impl BufRead, mut answers: impl Write) -> Result<(), Failure> {
    let mut line = Vec::new();
    loop {
        line.clear();
        let read = |e: io::Error| Failure::new(format!("standard input: {e}"));
        let mut bounded = questions.by_ref().take(QUESTION_BYTES_MAX);
        if bounded.read_until(b'\n', &mut line).map_err(read)? == 0 {
            return Ok(());
        }
        let answer = if line.ends_with(b"\n") || (line.len() as u64) < QUESTION_BYTES_MAX {
            axon_evaluate::answer(&line)
        } else {
            questions.skip_until(b'\n').map_err(read)?;
            axon_evaluate::refusal(&format!(
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
    #[test]
    fn every_line_has_an_answer() {
        let mut answers = Vec::new();
        let questions = b"{}\n\n{\"cluster\": 7}\n\xff\n{}";
        super::run(&questions[..], &mut answers).expect("answers");
        let answers = String::from_utf8(answers).expect("text");
        let lines: Vec<&str> = answers.lines().collect();
        assert_eq!(lines.len(), 5, "{answers}");
        let good = r#"{"policies":[],"results":[]}"#;
        assert_eq!((lines[0], lines[4]), (good, good));
        assert!(lines[2].contains("cluster"), "{}", lines[2]);
        for line in &lines[1..4] {
            assert!(line.contains("error"), "{line}");
        }
    }
}
