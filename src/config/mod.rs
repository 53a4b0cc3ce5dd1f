pub struct Config;
pub struct FlowConfig {
    pub name: &'static str,
    pub table: String,
}
impl Config {
    pub fn enabled_flows(&self) -> Vec<&FlowConfig> {
        vec![]
    }
}
