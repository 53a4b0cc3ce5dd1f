//! A `.env` file, whatever is in it: there is a configuration or a list of findings that a terminal can show, and a
//! password in a line of its own is in neither, however the lines around it are broken.

use super::said;

const SECRET: &str = "canary";

/// Up to the first zero byte it stands before the line with the password, from there on behind it.
pub fn run(data: &[u8]) {
    // What replaces a variable by its value may show it wherever the user wants it.
    let text = String::from_utf8_lossy(data).replace('$', "S");
    let (before, behind) = text.split_once('\0').unwrap_or((&text, ""));
    for line in [format!("PGPASSWORD={SECRET}"), format!("DB_URL=postgres://u:{SECRET}@h/d"), format!("PGPASSWORD='{SECRET}'")] {
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::write(folder.path().join(".env"), format!("{before}\n{line}\n{behind}")).expect("a file");
        let report = said::report(folder.path(), &[]);
        said::fits_a_terminal(&report);
        let all = said::all(&report);
        assert!(before.contains(SECRET) || behind.contains(SECRET) || !all.contains(SECRET), "{all}");
    }
}
