"""Foundations that every other room uses: errors, settings, devices and threads, atomic files.

May import no other room.
"""
