// Package cli builds the command line: postern <noun> <verb>, one for each
// entry of the command table, on top of the admin API. It knows names,
// parameters and answers of the entries and runs none of them itself.
//
// Promises to scripts: with --json the answer and nothing else is on standard
// output; progress, questions and errors are on standard error; the exit
// codes are those of Code and do not change.
//
// It finds the server by, in this order, its own flags --socket, --url, --lab,
// --dir, then the variables POSTERN_SOCKET, POSTERN_URL, POSTERN_LAB and
// POSTERN_DIR, then /var/lib/postern. Where several servers are known (--url
// given repeatedly, --lab), the first that takes the connection is used.
package cli
