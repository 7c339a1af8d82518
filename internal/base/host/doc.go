// Package host reads what the Linux kernel tells about this machine and this
// process in /proc: processor time with what the hypervisor kept for others, how
// long work waited for a processor, memory, file handles, disks.
//
// Parsers are functions of bytes: they allocate little, refuse what does not look
// right with kind.Invalid, and take fields of newer kernels. A figure that a
// kernel does not have is an error of its reader, not zero.
package host
