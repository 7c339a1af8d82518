// Package rspamd asks an rspamd server what it thinks of a message, by its
// HTTP protocol: POST /checkv2 to the normal worker, the message as the body
// and what is known of the session in the header.
//
// What strangers chose (HELO names, addresses) is cleaned before it becomes a
// header value. Only an answer of 200 with an action that is known counts;
// anything else is an error, so that a server that is down, overloaded or
// misconfigured never looks like a clean message.
package rspamd
