/** The version that pages, the radio and `--version` show; the same as in package.json (a test compares). */
export const version = '0.1.0';
