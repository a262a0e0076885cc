//! Golden files: files of released versions, which every later version must read.

use crate::run::{cargo, root};
use crate::{Done, Stop};

pub(crate) fn golden(arguments: &[String]) -> Done {
    let bless = match arguments {
        [] => false,
        [flag] if flag == "--bless" => true,
        _ => return Err(Stop::Usage("golden takes --bless, or nothing".to_owned())),
    };
    let mut found = false;
    let crates = [
        ("stratawal-frame", "frame"),
        ("stratawal-index", "index"),
        ("stratawal-journal", "journal"),
        ("stratawal", "stratawal"),
    ];
    for (package, dir) in crates {
        if root().join("crates").join(dir).join("tests/golden.rs").exists() {
            found = true;
            let run = cargo(&["test", "--quiet", "--package", package, "--test", "golden"]);
            let run = if bless { run.env("STRATAWAL_BLESS", "1") } else { run };
            run.done(&format!("the golden files of {package}"))?;
        }
    }
    if found { Ok(()) } else { Err(Stop::Failed("no golden test was found".to_owned())) }
}
