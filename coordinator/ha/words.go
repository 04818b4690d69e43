// SPDX-License-Identifier: Apache-2.0

package ha

import "time"

// clock writes a moment as people read it.
func clock(t time.Time) string { return t.UTC().Format("15:04:05") }

// span writes a duration without noise: whole seconds, no trailing zero units.
func span(d time.Duration) string {
	d = d.Round(time.Second)
	switch {
	case d >= time.Hour && d%time.Hour == 0:
		return (d / time.Hour * time.Hour).String()[:len((d/time.Hour*time.Hour).String())-4]
	case d >= time.Minute && d%time.Minute == 0:
		s := d.String()
		return s[:len(s)-2]
	}
	return d.String()
}

func orNone(s string) string {
	if s == "" {
		return "(unknown)"
	}
	return s
}
