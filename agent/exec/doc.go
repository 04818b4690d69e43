// SPDX-License-Identifier: Apache-2.0

// Package exec does on the host what commands ask for (commands.md): copies, block
// copies, migrations, over the port agent/hypervisor; it looks when it is asked what is
// so, and tidies what it is told to.
//
// It refuses to decide. It says COMPLETED or FAILED only of what this process has done and
// seen itself: of anything else it says that it cannot tell, and the worker judges. It
// never deletes by itself, neither the source of a move nor its own unfinished file: that
// is an action of the worker, made of evidence, and looked at once more here.
//
// Invariants: a command is in the journal before anything is done about it, and each step
// before what it announces; without a journal nothing is done; a command is begun once;
// links may come and go without a command noticing. A stop of the agent writes nothing:
// the next process finds what it left. What the hypervisor does by itself goes on then,
// and is waited for again when the worker says so (Reattach).
//
// One exception to "who starts a goroutine waits for it": a call to storage or hypervisor
// that does not come back is left behind, one per command and look (call.go).
package exec
