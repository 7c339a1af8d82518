// Package report tells domains what became of mail in their name and of TLS
// with their hosts: DMARC aggregate reports (RFC 9990) and SMTP TLS reports (RFC
// 8460), once for each UTC day.
//
// It keeps counters of the day and of days whose reports are not sent yet, in
// memory and in one small file. Each server reports what it saw itself; the
// reports of two servers have identities of their own.
//
// It promises:
//
//  1. NoteDMARC and NoteTLS never wait for a disk or the network.
//  2. What strangers can make it keep is bounded: domains, rows and their bytes.
//     What is not kept is counted, and a DMARC report says so.
//  3. A report goes only to who wants it: to addresses the domain names in its
//     record when the report is sent, and to those of others only if these say
//     so too (RFC 9990 section 4). It is sent by https to public addresses only.
//  4. A report that is sent again, after a crash, is the same one to its
//     reader: identity and file name follow from server, day and domain.
//  5. The file is whole or ignored. Without it a day's reports say less, and
//     nothing else is lost.
//
// It needs a resolver that tells "no such record" from a fault, and a queue that
// takes mail. A domain whose DNS does not answer is tried again for a day.
package report
