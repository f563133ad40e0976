//! Names in levels, with `.` between them, and patterns over them: `*` stands for any one level, and `>`,
//! as the last one, for one or more. The one rule behind topics and the policies of destinations.

/// Any one level.
pub(crate) const ANY_LEVEL: &str = "*";
/// One level or more, up to the end.
pub(crate) const ANY_REST: &str = ">";

/// Each level and the byte where it begins.
pub(crate) fn levels(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut at = 0;
    text.split('.').map(move |level| {
        let start = at;
        at += level.len() + 1;
        (start, level)
    })
}

/// Where in a level a wildcard stands beside other characters.
pub(crate) fn wildcard_beside_others(level: &str) -> Option<usize> {
    level.find(['*', '>']).filter(|_| level.len() > 1)
}

/// Whether a name is meant by a pattern.
pub(crate) fn matches(pattern: &str, name: &str) -> bool {
    let mut names = name.split('.');
    for wanted in pattern.split('.') {
        match (wanted, names.next()) {
            (_, None) => return false,
            (ANY_REST, Some(_)) => return true,
            (ANY_LEVEL, Some(_)) => {}
            (wanted, Some(level)) if wanted == level => {}
            (_, Some(_)) => return false,
        }
    }
    names.next().is_none()
}
