// SPDX-License-Identifier: Apache-2.0

package ha

// Same reports whether two records are one and the same, at the cost of a look at each field:
// equal values, and pointers and slices that are shared, as Step shares what it leaves alone.
// False says only that they may differ: what is behind pointers and slices is not looked at.
func (r *Record) Same(o *Record) bool {
	return r.V == o.V && r.Host == o.Host && r.State == o.State && r.Since == o.Since && r.Reason == o.Reason &&
		r.Partition == o.Partition && r.Admin == o.Admin && r.Eligible == o.Eligible && r.EligibleWhy == o.EligibleWhy &&
		r.Protected == o.Protected && r.OrderedOff == o.OrderedOff && r.Health == o.Health && r.HealthWhy == o.HealthWhy &&
		r.HealthOwn == o.HealthOwn && r.Unheard == o.Unheard && r.Seq == o.Seq &&
		shared(r.Lost, o.Lost) && r.Boot == o.Boot && shared(r.Past, o.Past) && shared(r.Instances, o.Instances) && shared(r.Local, o.Local) &&
		r.SeenDisks == o.SeenDisks && r.SeenProbe == o.SeenProbe && r.LastLife == o.LastLife && r.Passes == o.Passes &&
		r.PassSince == o.PassSince && shared(r.Returns, o.Returns) && r.QuietUntil == o.QuietUntil && r.QuietBoot == o.QuietBoot &&
		r.Power == o.Power && r.PowerSince == o.PowerSince && r.PowerTold == o.PowerTold && r.LastOff == o.LastOff && r.LastAction == o.LastAction &&
		r.Off == o.Off && r.OffVoid == o.OffVoid && r.OrderTxn == o.OrderTxn && r.OrderBy == o.OrderBy && r.SoftBy == o.SoftBy &&
		r.Gate == o.Gate && r.Proof == o.Proof && r.Incident == o.Incident && shared(r.Contradicted, o.Contradicted)
}

// shared: both are nil, or the same part of the same array.
func shared[T any](a, b []T) bool {
	if len(a) != len(b) || (a == nil) != (b == nil) {
		return false
	}
	return len(a) == 0 || &a[0] == &b[0]
}
