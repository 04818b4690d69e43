// SPDX-License-Identifier: Apache-2.0

package perf

// Where the time goes in parts that have missed their target, and what was tried. Shown on
// the page only where the target is missed.
const (
	whyCrash = "A worker of three owns 341 slots: 341 puts are 2.7 X of work for the members, after one put that records the end, " +
		"whoever does them; with comparisons, a lease and four watchers, as here, such a transaction takes 1.3 to 1.4 X (measured one at a time). " +
		"Slots of a reaped worker are taken over as they are; when they were freed by revoking the lease first, etcd deleted 341 keys before, which " +
		"cost as much again. The heirs' transactions run side by side, and reads went out of them, which took a tenth off. `perf` shows no hot spot: " +
		"members, heirs and the observer share two cores, in gRPC, protobuf, B-tree and garbage collection. What is left is the parent's wake-up and the watch."
	whyJoin = "The givers see that the joining worker is ready, end the owners of what they give, and push it in one round of transactions " +
		"side by side: 341 puts, 2.7 X of work for the members, by two givers. Before, they pushed 128 slots a round and waited between rounds " +
		"until their mirror showed them."
	whyCrowd = "Its parent learns of the death only when the kernel has taken the process's memory back, 2.4 GB in pages of 4 KiB (a bare process of that size takes 365 ms from SIGKILL to wait here): that is the time " +
		"until `reaped` is on record. Nobody else may believe in the death earlier. Then the heirs start 16,000 owners each on the cores that the members need."
	whyRestart = "The parent starts the new process beside the old one; agents redial with jitter."
	whyStall   = "The heirs adopt the hosts on the cores that the members need: at most 64 at a time, without reads. Hosts that were not heard before " +
		"and are not heard after a takeover are not written any more, which were 33,000 writes."
	whyIdle = "The fleet was still settling when the minute began (all quiet before: false): what is written are first states and " +
		"power readings of hosts that appeared at once. Before, with 10,000 hosts and 2,000 agents that had settled: 0 in a minute."
	whyOnce = "A look without an answer is waited for, so none fails for that. Whoever fails says why: `holdfast command list --state FAILED`. Before looks shared one reading of " +
		"what all processes have open, that was 78 % of the CPU of this run, and 400 to 800 copies failed for looks that took longer than 5 s."
	whyCold = "Workers register before they have read, and take slots as soon as all that start together have: nobody waits blindly any more. The time is " +
		"reading and decoding all records, three times, on two cores that three etcd members share, and what is computed from them on the way " +
		"(a decoded record costs 7 µs, its place in the census of hosts another 4 µs); the last slots wait for the owners that the first ones start."
	whyCollateral = "Two targets meet here: no collateral, and no peak in hosts. Where weights and zones leave somebody with more hosts than its share and the heaviest " +
		"slot, slots are exchanged between two workers that stay. Without hosts on record nothing is ever exchanged."
	whyJournal = "A step is encoded, one line written into room that the open file has, its data synced; an entry's first step opens it. What is more is the disk's " +
		"own scatter, where others write to it too, or a file system that commits its journal with each sync."
	whyPeak = "Home zones come first as long as nobody is over its share of the hosts by more than the heaviest slot."
)
