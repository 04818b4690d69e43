// SPDX-License-Identifier: Apache-2.0

package perf

// Where the time goes in parts that have missed their target, and what was tried. Shown on
// the page only where the target is missed.
const (
	whyCrash = "The cores decide, see the line about CPU: in the time of the target two cores give 6 × (P + X), and members, heirs and observer use about " +
		"twice that for 341 puts with comparisons, a lease and watchers. Profile of 40 kills (perf): of the members' CPU 17 % applies to the store, 15 % " +
		"wakes threads in the kernel, 12 % allocates, 10 % syncs, the rest is gRPC, Raft and the scheduler. The heirs' CPU was halved, 44 to 23 ms a death: their loop is woken " +
		"when a transaction is complete and not for each key of it, plans cost a fifth, and what is served already is not looked at. Slots of a " +
		"reaped worker are taken over as they are, in transactions side by side."
	whyJoin = "The same work by two givers, 341 puts in one round of transactions side by side, while the new process still starts its goroutines. Measured " +
		"in turn with the tree before on a loaded machine: 6.6 instead of 10.5 × (P + X), because the reign looks once per transaction, and because " +
		"the memory of the first copy is freed when the slots are taken and no longer right then."
	whyCrowd = "Its parent learns of the death only when the kernel has taken the process's memory back, in pages of 4 KiB (about 90 ms a GiB here): that is the " +
		"time until `reaped` is on record, and nobody else may believe in the death earlier. Heap profile of a worker with 100,000 hosts on record " +
		"and 50,000 owned: 600 MB live, of it owners 24 %, keys and values of etcd 17 %, HA records 15 %, declarations 10 %, the census 10 %; " +
		"goroutine stacks are 140 to 530 MB more, 16 KiB for each owner that has taken a step. What was only read through at the start is given back " +
		"after 10 s."
	whyRestart = "The parent starts the new process beside the old one; agents redial with jitter."
	whyStall   = "Profile of an heir while it adopts: 37 % garbage collection, 18 % decoding records and settings, 9 % the first step, and 6 % went into looks " +
		"at all owners for each slot event, which are gone. Adoption is paced to half of the cores now, hosts with something under way first. What is " +
		"left is the kernel's work on the dead process's memory and the heirs' transactions, on the cores that the members need."
	whyIdle = "What was written is named above with the fields that changed; a fleet of 30,000 hosts that had become quiet wrote nothing in a minute, nor " +
		"an entry of Raft. First states and power readings of hosts that appeared at once take as long as the cores need."
	whyOnce = "A look without an answer is waited for, so none fails for that. Whoever fails says why: `holdfast command list --state FAILED`. Before looks shared one reading of " +
		"what all processes have open, that was 78 % of the CPU of this run, and 400 to 800 copies failed for looks that took longer than 5 s."
	whyCold = "Three workers read all records at once, on two cores with three members: the line about ranges says what that costs without decoding " +
		"anything. CPU profile of one worker with 30,000 hosts: it was 1.6 s of reading and decoding and 0.9 s of garbage collection; it is 0.84 s, " +
		"0.3 s for the census and 0.3 s. A version is read from a record's beginning, power records are decoded when asked for, hosts are counted " +
		"once, and the collector waits until what is read is there."
	whyCollateral = "Two targets meet here: no collateral, and no peak in hosts. Where weights and zones leave somebody with more hosts than its share and the heaviest " +
		"slot, slots are exchanged between two workers that stay. Without hosts on record nothing is ever exchanged."
	whyJournal = "A step is encoded, one line written into room that the open file has, its data synced; an entry's first step opens it. What is more is the disk's " +
		"own scatter, where others write to it too, or a file system that commits its journal with each sync."
	whyPeak = "Home zones come first as long as nobody is over its share of the hosts by more than the heaviest slot."
)
