// Package fsx is the one seam between Postern and the disk.
//
// It keeps nothing itself; it promises, for every implementation:
//
//  1. Sync returns nil only when every byte written to the file before the
//     call is on stable storage. A name is durable only after SyncDir of its
//     folder.
//  2. A Sync that fails poisons the file: every later call on it returns that
//     error. Kernels mark pages clean after a failed write-back, so a second
//     try would say yes about bytes that are gone (promise P6).
//  3. Errors carry a kind: kind.NotFound, kind.Exists, kind.Full (no space),
//     otherwise kind.Internal.
//
// OS is the real disk. Mem is a model of one that can be asked what a crash
// at this moment would leave behind, and that fails on demand.
package fsx
